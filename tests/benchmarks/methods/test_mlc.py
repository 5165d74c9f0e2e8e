"""MLC: that its corrected labels are better than those given."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.methods import mlc
from benchmarks.methods.base import Outcome
from benchmarks.methods.virtual_step import with_gradient

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


@pytest.fixture(scope="module")
def outcome(toy: "Toy") -> Outcome:
    return mlc.run(toy.problem, replace(toy.config, epochs=32))  # at its authors' rate g takes some hundred steps


def test_it_beats_chance(toy: "Toy", outcome: Outcome) -> None:
    assert toy.accuracy(outcome.network) > 0.8
    assert outcome.transition is None
    assert outcome.passes == pytest.approx(2 + 8 * 15 / 240)


def test_corrected_labels_beat_the_given_ones(toy: "Toy", outcome: Outcome) -> None:
    given = float((toy.problem.noisy_labels == toy.truth).float().mean())
    assert toy.labels_right(outcome) > given + 0.2
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))


def test_a_correction_depends_on_the_features_and_on_the_given_label() -> None:
    torch.manual_seed(0)
    net = mlc.LabelCorrection(4, 3)
    features = torch.randn(2, 4)
    same, other_label = net(features, torch.tensor([0, 0])), net(features, torch.tensor([1, 1]))
    assert torch.allclose(same.sum(dim=1), torch.ones(2))
    assert not torch.allclose(same[0], same[1])
    assert not torch.allclose(same, other_label)


def test_a_loss_with_a_given_gradient_has_its_value_and_that_gradient() -> None:
    parameters = [torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True)]
    gradient = [torch.tensor([0.5, 4.0]), torch.tensor(-1.0)]
    loss = with_gradient(torch.tensor(0.7), parameters, gradient)
    assert float(loss.detach()) == pytest.approx(0.7)
    for found, expected in zip(torch.autograd.grad(loss, parameters), gradient, strict=True):
        assert torch.equal(found, expected)


def test_the_same_seed_gives_the_same_network(toy: "Toy") -> None:
    config = replace(toy.config, epochs=2)
    first, second = mlc.run(toy.problem, config), mlc.run(toy.problem, config)
    assert torch.equal(first.beliefs, second.beliefs)
