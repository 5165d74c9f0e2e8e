"""MW-Net: that its weights fall on wrong labels, because they fall with the loss."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.methods import mw_net
from benchmarks.methods.base import Outcome

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy

Trained = tuple[mw_net.MwNetStep, Outcome]


@pytest.fixture(scope="module")
def trained(toy: "Toy") -> Trained:
    step = mw_net.MwNetStep(toy.problem, replace(toy.config, epochs=24))
    return step, step.train(None)


def test_it_beats_chance_and_cross_entropy(toy: "Toy", trained: Trained, cross_entropy: Outcome) -> None:
    _, outcome = trained
    assert toy.accuracy(outcome.network) > 0.85
    assert toy.labels_right(outcome) > toy.labels_right(cross_entropy)
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))
    assert outcome.transition is None
    assert outcome.passes == pytest.approx(2 + 2 / 3 + 8 * 15 / 240)


def test_wrong_labels_weigh_less_than_right_ones(toy: "Toy", trained: Trained) -> None:
    step, _ = trained
    wrong = toy.problem.noisy_labels != toy.truth
    assert step.weights[wrong].mean() < 0.7 * step.weights[~wrong].mean()


def test_the_learnt_weight_falls_with_the_loss(trained: Trained) -> None:
    step, _ = trained
    with torch.no_grad():
        low, high = mw_net.weigh(step.net, torch.tensor([0.1, 3.0])).tolist()
    assert high < low


def test_the_weight_takes_the_loss_as_a_constant() -> None:
    losses = torch.ones(4, requires_grad=True)
    weights = mw_net.weigh(mw_net.weight_net(), losses)
    (slope,) = torch.autograd.grad((weights * losses).sum(), losses)
    torch.testing.assert_close(slope, weights.detach())


def test_the_same_seed_gives_the_same_network(toy: "Toy") -> None:
    config = replace(toy.config, epochs=2)
    first, second = mw_net.run(toy.problem, config), mw_net.run(toy.problem, config)
    assert torch.equal(first.beliefs, second.beliefs)
