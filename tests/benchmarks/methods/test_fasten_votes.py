"""Ours in the harness where annotators are told apart."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.methods import fasten
from fasten_model.train import OURS

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


def test_ours_as_the_product_runs_it_hears_every_annotator(toy: "Toy") -> None:
    """The first gave the labels, the second guesses, the third knows two in three."""
    chance = torch.Generator().manual_seed(3)

    def votes(given: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        guesses = torch.randint(3, given.shape, generator=chance)
        return torch.stack([given, guesses, torch.where(guesses == 0, (truth + 1) % 3, truth)], dim=1)

    problem = replace(
        toy.problem,
        votes=votes(toy.problem.noisy_labels, toy.truth),
        clean_votes=votes(toy.problem.clean_given, toy.problem.clean_labels),
    )
    config = replace(toy.config, method=OURS)
    told, untold = fasten.run(problem, config), fasten.run(toy.problem, config)
    assert told.transition is not None
    assert toy.labels_right(told) > 0.95
    assert not torch.equal(told.beliefs, untold.beliefs)
