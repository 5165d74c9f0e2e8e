"""Which samples make up which step: a function of (seed, step), so that any step can be the first one of a process.

All processes draw the same batches and take their own samples out of them, so that their number changes nothing about a
batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fasten_model.train.process import Process
from fasten_model.train.seeds import generator

Indices = list[Tensor]
"""One int64 [B] on the CPU for each step of an epoch: the batches of all processes."""


def steps_per_epoch(count: int, batch: int) -> int:
    """Steps in which each of `count` samples is visited once, with at most `batch` in a step."""
    return math.ceil(count / batch)


def noisy_epoch(count: int, batch: int, *, seed: int, epoch: int) -> Indices:
    """Every sample once, in batches whose sizes differ by one at the most."""
    order = torch.randperm(count, generator=generator(seed, "noisy order", epoch))
    return list(order.tensor_split(steps_per_epoch(count, batch)))


class CleanPlan:
    """Endless clean batches of exactly `batch` samples, each group visited evenly.

    groups: (numbers of the samples int64, how many of them in each batch). A group is passed through again and again,
    shuffled anew each time.
    """

    def __init__(self, groups: Sequence[tuple[Tensor, int]], *, seed: int) -> None:
        self._groups = [(samples, share) for samples, share in groups if share > 0]
        self._seed = seed
        self._passes: dict[tuple[int, int], Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """int64 [D]: the clean samples of `step`."""
        chosen = []
        for number, (samples, share) in enumerate(self._groups):
            first, last = step * share, (step + 1) * share
            while first < last:
                turn, start = divmod(first, len(samples))
                taken = self._pass(number, turn)[start : start + last - first]
                chosen.append(taken)
                first += len(taken)
        return torch.cat(chosen)

    def _pass(self, number: int, turn: int) -> Tensor:
        if (number, turn) not in self._passes:
            samples = self._groups[number][0]
            order = torch.randperm(len(samples), generator=generator(self._seed, "clean order", number, turn))
            self._passes = {key: kept for key, kept in self._passes.items() if key[0] != number or key[1] == turn - 1}
            self._passes[number, turn] = samples[order]
        return self._passes[number, turn]


def clean_groups(labels: Tensor, estimates: Tensor, batch: int, *, balanced: bool) -> list[tuple[Tensor, int]]:
    """The groups of a `CleanPlan` of `batch` samples.

    At least half of a batch was audited at random where there is anything else: T̂ is estimated from these alone, and
    drawn from all clean samples together a growing pile of reviews would crowd them out. `balanced`: the same number
    of each class, where `batch` allows that; only if every class has its own. labels int64 [C]: y. estimates bool [C].
    """
    labels, estimates = labels.cpu(), estimates.cpu()
    audited, reviewed = estimates.nonzero().flatten(), (~estimates).nonzero().flatten()
    if len(audited) and len(reviewed):
        share = min(batch - 1, max(math.ceil(batch / 2), round(batch * len(audited) / len(estimates))))
        return [(audited, share), (reviewed, batch - share)]
    classes = torch.unique(labels)
    if balanced and batch % len(classes) == 0:
        return [((labels == label).nonzero().flatten(), batch // len(classes)) for label in classes.tolist()]
    return [(torch.arange(len(labels)), batch)]


def clean_frequencies(groups: Sequence[tuple[Tensor, int]], labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class among the samples that the plan of `groups` draws, sums to 1: [K].

    As though one sample of each class were drawn besides, so that none is 0. labels int64 [C]: y.
    """
    batch = sum(share for _, share in groups)
    drawn = torch.ones(num_classes)
    for samples, share in groups:
        counts = torch.bincount(labels.cpu()[samples], minlength=num_classes)
        drawn += counts * (share / batch * len(labels) / len(samples))
    return drawn / drawn.sum()


def own_share(indices: Indices, process: Process) -> tuple[Indices, Indices | None]:
    """(this process's samples as it numbers them, their places in the whole batch), a list of steps each.

    None for the places: all of the batch is this process's.
    """
    if process.world == 1:
        return indices, None
    places = [(index % process.world == process.rank).nonzero().flatten() for index in indices]
    return [index[place] // process.world for index, place in zip(indices, places, strict=True)], places
