"""Deep k-NN: the vote of neighbours, and that what it keeps is cleaner."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.methods import deep_knn
from benchmarks.methods.deep_knn import kept_samples, plurality

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


def test_a_sample_is_outvoted_by_its_neighbours_and_has_no_vote_itself() -> None:
    points = torch.tensor([[0.0], [0.1], [0.2], [0.3], [9.0], [9.1], [9.2]])
    labels = torch.tensor([0, 0, 1, 0, 1, 1, 0])
    assert plurality(points, labels, 2, 2).tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert plurality(points, labels, 2, 3).tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    points, labels = torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)
    whole = plurality(points, labels, 3, 7)
    monkeypatch.setattr(deep_knn, "_CHUNK", 8)
    assert torch.equal(plurality(points, labels, 3, 7), whole)


def test_the_kept_labels_are_cleaner_than_all_and_most_right_ones_are_kept(toy: "Toy") -> None:
    right = toy.problem.noisy_labels == toy.truth
    kept = kept_samples(toy.problem, toy.config)
    assert right[kept].float().mean() > right.float().mean() + 0.15
    assert kept[right].float().mean() > 0.7


def test_it_beats_chance_and_the_labels_that_it_was_given(toy: "Toy") -> None:
    outcome = deep_knn.run(toy.problem, toy.config)
    assert toy.accuracy(outcome.network) > 0.75
    assert toy.labels_right(outcome) > 0.7
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))
    assert outcome.transition is None


def test_both_trainings_are_paid_for_and_only_the_second_is_shown(toy: "Toy") -> None:
    config = replace(toy.config, epochs=2)
    seen: list[int] = []
    outcome = deep_knn.run(toy.problem, config, lambda epoch, _: seen.append(epoch))
    assert seen == [1, 2]
    kept = int(kept_samples(toy.problem, config).sum())
    assert outcome.passes == pytest.approx((285 + kept + 45 + 285 / 3 / 2) / 240)


def test_the_same_seed_gives_the_same_result(toy: "Toy") -> None:
    one, same = (deep_knn.run(toy.problem, replace(toy.config, epochs=1)) for _ in range(2))
    assert torch.equal(one.beliefs, same.beliefs)
