"""Simulated annotators: each is wrong about 30 % of the time, mostly in a way of their own.

Annotator r is a confusion matrix C_r [K,K], C_r[i,j] = p(says j | truth is i), rows sum to 1. The rate of error of a
class differs from class to class and from annotator to annotator; most mistakes of a class go to the one class that
this annotator takes it for, the others to any other class.
"""

import torch
from torch import Tensor

from benchmarks.data.source import UNKNOWN, Source
from fasten_model.train.seeds import generator

WRONG = 0.30
"""Mean rate of error of an annotator over the classes."""
MOST_WRONG = 0.55
"""The rate of error of one class lies between 2·WRONG − this and this."""
TYPICAL = 0.8
"""Share of an annotator's mistakes in a class that are the one they always make there."""
ANSWERS = 0.6
"""Probability that an annotator labels a sample; a sample that nobody would label gets one annotator."""


def confusion(source: Source, annotator: int, seed: int) -> Tensor:
    """C_r [K,K] of annotator r = 0, 1, …; depends on the classes, r and the seed only."""
    num_classes = source.num_classes
    chance = generator(seed, "annotator", annotator)
    # Spread evenly over the range, in random order: the mean is WRONG for every annotator.
    step = torch.linspace(-1, 1, num_classes)[torch.randperm(num_classes, generator=chance)]
    wrong = WRONG + (MOST_WRONG - WRONG) * step  # [K]
    others = (1 - torch.eye(num_classes)) / max(1, num_classes - 1)
    typical = torch.eye(num_classes)[_taken_for(source, chance)]
    mistakes = TYPICAL * typical + (1 - TYPICAL) * others  # [K,K], nothing on the diagonal
    return torch.diag(1 - wrong) + wrong[:, None] * mistakes


def _taken_for(source: Source, chance: torch.Generator) -> Tensor:
    """int64 [K]: one look-alike of each class (either way of `mistaken_for`), or any other class where it has none."""
    num_classes = source.num_classes
    alike = torch.zeros(num_classes, num_classes)
    alike[torch.arange(num_classes), torch.tensor(source.mistaken_for)] = 1
    alike = ((alike + alike.t()) > 0).float().fill_diagonal_(0)
    anything = 1 - torch.eye(num_classes)
    # Look-alikes outweigh all else, and yet two annotators need not agree on one.
    weights = torch.where(alike.sum(dim=1, keepdim=True) > 0, alike + 0.3 * anything / num_classes, anything)
    return torch.multinomial(weights, 1, generator=chance).flatten()


def cast_votes(source: Source, annotators: int, index: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(votes int64 [n,R], −1 where there is none; turns int64 [n,R]: the lowest answered first) of rows `index`.

    Everybody labels ANSWERS of the samples; a single annotator labels all of them.
    """
    count = len(source.train_labels)
    chance = generator(seed, "noise", "annotators", annotators)
    uniform = torch.rand(count, annotators, generator=chance)[index]
    turns = torch.rand(count, annotators, generator=chance)[index].argsort(dim=1)
    chosen = torch.rand(count, annotators, generator=chance)[index]
    answers = (chosen < ANSWERS) | (chosen == chosen.min(dim=1, keepdim=True).values)  # [n, R]

    confusions = torch.stack([confusion(source, r, seed) for r in range(annotators)])  # [R, K, K]
    cumulative = confusions[:, source.train_labels[index]].cumsum(dim=2)  # [R, n, K]
    said = torch.searchsorted(cumulative, uniform.t()[:, :, None].contiguous()).squeeze(2).t()  # [n, R]
    said = said.clamp(max=source.num_classes - 1)  # the last cumulative value may be a rounding error below 1
    return torch.where(answers, said, UNKNOWN), turns


def majority(votes: Tensor, turns: Tensor, num_classes: int) -> Tensor:
    """int64 [n]: the class with most votes of [n,R], on a tie the earliest by `turns` [n,R]; −1 without votes."""
    count, annotators = votes.shape
    answered = votes != UNKNOWN
    tally = torch.zeros(count, num_classes).scatter_add_(1, votes.clamp(min=0), answered.float())  # [n, K]
    support = tally.gather(1, votes.clamp(min=0)) * (annotators + 1) - turns
    best = torch.where(answered, support, -torch.inf).argmax(dim=1, keepdim=True)
    return votes.gather(1, best).squeeze(1)
