"""MSLC: that its soft labels come nearer the truth than those given."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.methods import mslc
from benchmarks.methods.base import Outcome

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


@pytest.fixture(scope="module")
def outcome(toy: "Toy") -> Outcome:
    return mslc.run(toy.problem, replace(toy.config, epochs=40))  # V and U learn in the last third alone


def test_it_beats_chance(toy: "Toy", outcome: Outcome) -> None:
    assert toy.accuracy(outcome.network) > 0.8
    assert outcome.transition is None
    assert outcome.passes == pytest.approx(2 / 3 + 1 / 3 * (2 + 2 / 3 + 8 * 15 / 240))


def test_soft_labels_recover_the_truth_better_than_the_given_labels(toy: "Toy", outcome: Outcome) -> None:
    given = float((toy.problem.noisy_labels == toy.truth).float().mean())
    assert toy.labels_right(outcome) > given + 0.2
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240), atol=1e-5)


def test_the_target_is_the_mixture_of_three_labels() -> None:
    given, previous, current = torch.eye(3)[:, None]
    mixed = mslc.mixture(torch.tensor([[0.2]]), torch.tensor([[0.75]]), given, previous, current)
    torch.testing.assert_close(mixed, torch.tensor([[0.2, 0.6, 0.2]]))


def test_the_same_seed_gives_the_same_network(toy: "Toy") -> None:
    config = replace(toy.config, epochs=3)
    first, second = mslc.run(toy.problem, config), mslc.run(toy.problem, config)
    assert torch.equal(first.beliefs, second.beliefs)
