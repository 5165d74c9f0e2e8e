"""Gold Loss Correction: its loss, its Ĉ, and that it undoes the noise."""

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch.nn import functional

from benchmarks.methods import glc
from benchmarks.methods.base import Outcome
from fasten_model.loss import forward_loss
from fasten_model.train.batch import Batch, Part
from fasten_model.transition import smooth_transition

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


@pytest.fixture(scope="module")
def outcome(toy: "Toy") -> Outcome:
    return glc.run(toy.problem, toy.config)


def test_trusted_labels_are_learnt_as_they_are_and_the_others_under_the_estimate() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, trusted = torch.tensor([0, 2, 1, 2, 0]), torch.tensor([False, True, False, False, True])
    transition = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.9, 0.1], [0.5, 0.0, 0.5]])
    loop = SimpleNamespace(
        device=torch.device("cpu"), inputs=lambda *_: None, forward=lambda _: (logits, torch.empty(0))
    )
    part = Part(index=torch.arange(5), images=torch.empty(0), positions=None, size=5)
    step = glc.GoldStep(cast(Any, loop), labels, trusted, transition)
    total = step(Batch(step=0, steps=1, lr=0.1, noisy=part, clean=None)).total

    smooth = smooth_transition(transition, glc.SMOOTHING)
    by_hand = torch.where(
        trusted, functional.cross_entropy(logits, labels, reduction="none"), forward_loss(logits, labels, smooth)
    ).mean()
    assert torch.allclose(total, by_hand)
    (gradient,), (expected,) = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (total, by_hand))
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_it_beats_chance_and_cross_entropy_under_class_conditional_noise(
    toy: "Toy", outcome: Outcome, cross_entropy: Outcome
) -> None:
    assert toy.accuracy(outcome.network) > 0.9
    assert toy.labels_right(outcome) > toy.labels_right(cross_entropy) + 0.08
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))


def test_the_estimate_is_near_the_true_transition(toy: "Toy", outcome: Outcome) -> None:
    assert outcome.transition is not None
    assert torch.allclose(outcome.transition.sum(dim=1), torch.ones(3))
    assert toy.transition_error(outcome.transition) < 0.1
    assert toy.transition_error(outcome.transition) < toy.transition_error(outcome.transition.t())
    assert toy.transition_error(torch.eye(3)) > 0.25


def test_a_class_without_a_trusted_sample_is_taken_to_be_labelled_right(toy: "Toy") -> None:
    some = toy.problem.clean_labels != 1
    problem = replace(
        toy.problem,
        clean_images=toy.problem.clean_images[some],
        clean_labels=toy.problem.clean_labels[some],
        clean_given=toy.problem.clean_given[some],
    )
    lacking = glc.run(problem, replace(toy.config, epochs=1))
    assert lacking.transition is not None
    assert torch.equal(lacking.transition[1], torch.tensor([0.0, 1.0, 0.0]))
    assert torch.isfinite(lacking.beliefs).all()


def test_two_trainings_are_paid_for_and_only_the_second_is_shown(toy: "Toy") -> None:
    seen: list[int] = []
    outcome = glc.run(toy.problem, replace(toy.config, epochs=2), lambda epoch, _: seen.append(epoch))
    assert seen == [1, 2]
    assert outcome.passes == pytest.approx(2 + 45 / 240 + 45 / 240 / 3 / 2)


def test_the_same_seed_gives_the_same_result(toy: "Toy") -> None:
    one, same = (glc.run(toy.problem, replace(toy.config, epochs=1)) for _ in range(2))
    assert torch.equal(one.beliefs, same.beliefs)
