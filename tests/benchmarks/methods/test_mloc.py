"""MLoC: that T is learnt from clean samples, stays row-stochastic, and undoes the noise."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.methods import mloc
from benchmarks.methods.base import Outcome
from fasten_model.train.batch import Batch, StepLosses

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


@pytest.fixture(scope="module")
def outcome(toy: "Toy") -> Outcome:
    return mloc.run(toy.problem, replace(toy.config, epochs=24))


def test_it_beats_chance_and_cross_entropy(toy: "Toy", outcome: Outcome, cross_entropy: Outcome) -> None:
    assert toy.accuracy(outcome.network) > 0.85
    assert toy.labels_right(outcome) > toy.labels_right(cross_entropy)
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))
    assert outcome.passes == pytest.approx(3 / 8 + 5 / 8 * (2 + 2 / 3 + 8 * 15 / 240))


def test_the_learnt_transition_is_nearer_the_truth_than_the_identity_it_starts_from(
    toy: "Toy", outcome: Outcome
) -> None:
    assert outcome.transition is not None
    assert torch.allclose(outcome.transition.sum(dim=1), torch.ones(3))
    assert toy.transition_error(outcome.transition) < 0.6 * toy.transition_error(torch.eye(3))
    assert toy.transition_error(outcome.transition) < toy.transition_error(outcome.transition.t())


def test_the_first_part_is_plain_cross_entropy_under_the_identity(toy: "Toy") -> None:
    diagonals = list[float]()

    class Watched(mloc.MlocStep):
        def __call__(self, batch: Batch) -> StepLosses:
            losses = super().__call__(batch)
            diagonals.append(float(self.transition.diagonal().mean()))
            return losses

    Watched(toy.problem, replace(toy.config, epochs=1)).train(None)
    assert diagonals[:3] == [1.0] * 3  # 3/8 of 8 steps
    assert diagonals[-1] < 1


@given(st.lists(st.floats(-2, 2, width=32), min_size=9, max_size=9))
def test_any_matrix_is_made_row_stochastic(entries: list[float]) -> None:
    rows = mloc.row_stochastic(torch.tensor(entries).reshape(3, 3))
    assert torch.allclose(rows.sum(dim=1), torch.ones(3), atol=1e-5)
    assert (rows >= 0).all()


def test_the_same_seed_gives_the_same_network(toy: "Toy") -> None:
    config = replace(toy.config, epochs=2)
    first, second = mloc.run(toy.problem, config), mloc.run(toy.problem, config)
    assert torch.equal(first.beliefs, second.beliefs)
