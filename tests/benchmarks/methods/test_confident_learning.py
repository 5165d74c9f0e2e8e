"""cleanlab: cross-validation, which way round its matrices are, and that it finds wrong labels."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.methods import confident_learning
from benchmarks.methods.base import Observer, Outcome
from benchmarks.methods.confident_learning import FOLDS, folds, label_issues, out_of_sample, transition_of
from benchmarks.methods.plain import train_plain
from fasten_model.network import TwoHeadNetwork
from fasten_model.train import TrainConfig

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


@pytest.fixture(scope="module")
def probabilities(toy: "Toy") -> Tensor:
    return out_of_sample(toy.problem, toy.config)


@pytest.fixture(scope="module")
def outcome(toy: "Toy", probabilities: Tensor) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:  # the folds are trained once, for all tests here
        patch.setattr(confident_learning, "out_of_sample", lambda *_: probabilities)
        return confident_learning.run(toy.problem, toy.config)


def test_every_fold_has_its_share_of_every_label(toy: "Toy") -> None:
    labels = toy.problem.noisy_labels
    fold = folds(labels, seed=0)
    for label in range(3):
        counts = torch.bincount(fold[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(folds(labels, seed=0), fold)
    assert not torch.equal(folds(labels, seed=1), fold)


def test_no_sample_is_judged_by_a_network_that_has_seen_it(toy: "Toy", monkeypatch: pytest.MonkeyPatch) -> None:
    labels = toy.problem.noisy_labels
    taught: list[Tensor] = []

    def recorded(
        images: Tensor, labels: Tensor, num_classes: int, config: TrainConfig, observer: Observer | None = None
    ) -> TwoHeadNetwork:
        taught.append(images)
        return train_plain(images, labels, num_classes, config, observer)

    def judged(_: TwoHeadNetwork, images: Tensor) -> Tensor:
        assert not set(images.flatten(1).sum(dim=1).tolist()) & set(taught[-1].flatten(1).sum(dim=1).tolist())
        return torch.full((len(images), 3), 1 / 3)

    # Each noisy image is of one brightness, which tells it from all others; the clean ones are black.
    shades = torch.arange(1, 241, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    problem = replace(toy.problem, noisy_images=shades, clean_images=torch.zeros(45, 3, 4, 4, dtype=torch.uint8))
    monkeypatch.setattr(confident_learning, "train_plain", recorded)
    monkeypatch.setattr(confident_learning, "beliefs_of", judged)
    probabilities = out_of_sample(problem, replace(toy.config, epochs=1))
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(len(labels)))  # everyone was judged
    assert [len(images) for images in taught] == [225] * FOLDS


def test_the_joint_of_given_and_true_labels_is_turned_round() -> None:
    given_by_true = np.array([[6.0, 0.0, 0.0], [2.0, 9.0, 0.0], [0.0, 1.0, 0.0]])
    expected = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]])
    assert torch.allclose(transition_of(given_by_true), expected)


def test_planted_errors_are_found_where_the_probabilities_know_better(toy: "Toy") -> None:
    p = torch.full((240, 3), 0.05)
    p[torch.arange(240), toy.truth] = 0.9
    issues, transition = label_issues(toy.problem.noisy_labels, p)
    wrong = toy.problem.noisy_labels != toy.truth
    assert torch.equal(issues, wrong)
    assert toy.transition_error(transition) < 0.05


def test_it_beats_chance_and_prunes_wrong_labels_rather_than_right_ones(
    toy: "Toy", outcome: Outcome, probabilities: Tensor
) -> None:
    assert toy.accuracy(outcome.network) > 0.75
    assert toy.labels_right(outcome) > 0.7
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))
    issues, _ = label_issues(toy.problem.noisy_labels, probabilities)
    wrong = toy.problem.noisy_labels != toy.truth
    assert wrong[issues].float().mean() > 0.7  # 0.4 by chance
    assert issues[wrong].float().mean() > 2 * issues[~wrong].float().mean()


def test_the_transition_is_the_right_way_round_and_near_the_truth(toy: "Toy", outcome: Outcome) -> None:
    assert outcome.transition is not None
    assert torch.allclose(outcome.transition.sum(dim=1), torch.ones(3))
    assert toy.transition_error(outcome.transition) < 0.15
    assert toy.transition_error(outcome.transition) < toy.transition_error(outcome.transition.t())


def test_five_trainings_are_paid_for_and_only_the_last_is_shown(toy: "Toy") -> None:
    config = replace(toy.config, epochs=1)
    seen: list[int] = []
    one = confident_learning.run(toy.problem, config, lambda epoch, _: seen.append(epoch))
    assert seen == [1]
    issues, _ = label_issues(toy.problem.noisy_labels, out_of_sample(toy.problem, config))
    kept = 240 - int(issues.sum())
    assert one.passes == pytest.approx((3 * 240 + 4 * 45 + 240 / 3 + kept + 45) / 240)
    assert torch.equal(one.beliefs, confident_learning.run(toy.problem, config).beliefs)
