"""L2RW: its weights against their definition, and that they fall on wrong labels."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.methods import l2rw
from benchmarks.methods.base import Outcome
from benchmarks.methods.virtual_step import VirtualStep
from fasten_model.network import TwoHeadNetwork

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy

Trained = tuple[l2rw.L2rwStep, Outcome]


@pytest.fixture(scope="module")
def trained(toy: "Toy") -> Trained:
    step = l2rw.L2rwStep(toy.problem, toy.config)
    return step, step.train(None)


def test_weights_are_the_clipped_and_normalised_effect_of_a_step_on_the_clean_loss() -> None:
    torch.manual_seed(0)
    network = TwoHeadNetwork(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh()), 5, 3).double()
    noisy, labels = torch.randn(8, 3, 2, 2, dtype=torch.float64), torch.randint(3, (8,))
    clean, clean_labels = torch.randn(6, 3, 2, 2, dtype=torch.float64), torch.randint(3, (6,))
    virtual = VirtualStep(network)
    _, logits = virtual.outputs(noisy)
    _, v = virtual.clean_gradient(virtual.parameters, clean, clean_labels)
    weights = l2rw.example_weights(logits, labels, virtual.logit_derivative(noisy, v))

    parameters = tuple(virtual.parameters.values())
    by_clean = torch.autograd.grad(functional.cross_entropy(network(clean)[0], clean_labels), parameters)
    effects = []
    for image, label in zip(noisy, labels, strict=True):
        own = torch.autograd.grad(functional.cross_entropy(network(image[None])[0], label[None]), parameters)
        effects.append(max(0.0, float(sum((a * b).sum() for a, b in zip(own, by_clean, strict=True)))))
    expected = torch.tensor(effects, dtype=torch.float64)
    assert 0 < int((expected > 0).sum()) < len(expected)
    torch.testing.assert_close(weights, expected / expected.sum())


def test_a_batch_in_which_no_example_helps_is_not_learnt_from() -> None:
    weights = l2rw.example_weights(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    assert torch.equal(weights, torch.zeros(2))


def test_it_beats_chance_and_cross_entropy(toy: "Toy", trained: Trained, cross_entropy: Outcome) -> None:
    _, outcome = trained
    assert toy.accuracy(outcome.network) > 0.85
    assert toy.labels_right(outcome) > toy.labels_right(cross_entropy)
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))
    assert outcome.transition is None
    assert outcome.passes == pytest.approx(2 + 8 * 15 / 240)


def test_wrong_labels_weigh_less_than_right_ones(toy: "Toy", trained: Trained) -> None:
    step, _ = trained
    wrong = toy.problem.noisy_labels != toy.truth
    assert step.weights[wrong].mean() < 0.6 * step.weights[~wrong].mean()


def test_the_same_seed_gives_the_same_network_and_the_observer_sees_each_epoch(toy: "Toy") -> None:
    config, seen = replace(toy.config, epochs=2), list[int]()
    first = l2rw.run(toy.problem, config, lambda epoch, _: seen.append(epoch))
    second = l2rw.run(toy.problem, config)
    assert torch.equal(first.beliefs, second.beliefs)
    assert seen == [1, 2]
