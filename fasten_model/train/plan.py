"""Which samples make up which step: a function of (seed, step), so that any step can be the first one of a process.

All processes draw the same batches and take their own samples out of them, so that their number changes nothing about a
batch.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fasten_model.presets import Preset
from fasten_model.train.process import Process
from fasten_model.train.seeds import generator

Indices = list[Tensor]
"""One int64 [B] on the CPU for each step of an epoch: the batches of all processes."""


def steps_per_epoch(count: int, batch: int) -> int:
    """Steps in which each of `count` samples is visited once, with at most `batch` in a step.

    Never with one alone, of which BatchNorm has no statistics: an odd number in twos has a batch of three.
    """
    return min(math.ceil(count / batch), max(1, count // 2))


def epochs_over(count: int, settings: Preset) -> int:
    """Epochs over `count` samples: the preset's, or as many as its least number of steps takes."""
    return max(settings.epochs, math.ceil(settings.least_steps / steps_per_epoch(count, settings.noisy_batch)))


def noisy_epoch(count: int, batch: int, *, seed: int, epoch: int) -> Indices:
    """Every sample once, in batches whose sizes differ by one at the most."""
    order = torch.randperm(count, generator=generator(seed, "noisy order", epoch))
    return list(order.tensor_split(steps_per_epoch(count, batch)))


class CleanGroup(NamedTuple):
    """Clean samples that are drawn from together."""

    samples: Tensor
    """int64: their numbers."""
    size: int
    """How many each batch has of this group, or of the `groups` that share them."""
    groups: int = 1
    """K: then each batch has ⌊size/K⌋ of this one, or one more."""
    place: int = 0
    """0 to K − 1, another for each of them. Σ_k ⌊(x + k)/K⌋ = x (Hermite's identity): together they have `size`."""

    def drawn(self, step: int) -> int:
        """How many samples the batches before `step` have."""
        return (step * self.size + self.place) // self.groups


class CleanPlan:
    """Endless clean batches; each group is passed through again and again, shuffled anew each time."""

    def __init__(self, groups: Sequence[CleanGroup], *, seed: int) -> None:
        self._groups = [group for group in groups if group.size > 0]
        self._seed = seed
        self._passes: dict[tuple[int, int], Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """int64 [D]: the clean samples of `step`."""
        chosen = []
        for number, group in enumerate(self._groups):
            first, last = group.drawn(step), group.drawn(step + 1)
            while first < last:
                turn, start = divmod(first, len(group.samples))
                taken = self._pass(number, turn)[start : start + last - first]
                chosen.append(taken)
                first += len(taken)
        return torch.cat(chosen)

    def _pass(self, number: int, turn: int) -> Tensor:
        if (number, turn) not in self._passes:
            samples = self._groups[number].samples
            order = torch.randperm(len(samples), generator=generator(self._seed, "clean order", number, turn))
            self._passes = {key: kept for key, kept in self._passes.items() if key[0] != number or key[1] == turn - 1}
            self._passes[number, turn] = samples[order]
        return self._passes[number, turn]


def clean_groups(labels: Tensor, estimates: Tensor, batch: int, *, balanced: bool) -> list[CleanGroup]:
    """The groups of a `CleanPlan` of exactly `batch` samples.

    At least half of a batch was audited at random where there is anything else: T̂ is estimated from these alone, and
    drawn from all clean samples together a growing pile of reviews would crowd them out. `balanced`: as many of each
    class, among those audited at random and among the others. labels int64 [C]: y. estimates bool [C].
    """
    labels, estimates = labels.cpu(), estimates.cpu()
    audited, reviewed = estimates.nonzero().flatten(), (~estimates).nonzero().flatten()
    share = batch
    if len(audited) and len(reviewed):
        share = min(batch - 1, max(math.ceil(batch / 2), round(batch * len(audited) / len(estimates))))
    elif len(reviewed):
        share = 0
    groups = []
    for samples, size in ((audited, share), (reviewed, batch - share)):
        if size > 0:
            groups += _by_class(samples, labels, size) if balanced else [CleanGroup(samples, size)]
    return groups


def _by_class(samples: Tensor, labels: Tensor, size: int) -> list[CleanGroup]:
    """`size` of `samples` in each batch, and as many of each of their classes."""
    of = labels[samples]
    classes = torch.unique(of).tolist()
    return [CleanGroup(samples[of == label], size, len(classes), place) for place, label in enumerate(classes)]


def times_shown(groups: Sequence[CleanGroup]) -> float:
    """How often a step shows the clean sample that it shows: the mean over the batch of its group's passes a step."""
    sizes = [group.size / group.groups for group in groups]
    return sum(size**2 / len(group.samples) for size, group in zip(sizes, groups, strict=True)) / sum(sizes)


def clean_frequencies(groups: Sequence[CleanGroup], labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class among the samples that the plan of `groups` draws, sums to 1: [K].

    As though one sample of each class were drawn besides, so that none is 0. labels int64 [C]: y.
    """
    batch = sum(group.size / group.groups for group in groups)
    drawn = torch.ones(num_classes)
    for group in groups:
        counts = torch.bincount(labels.cpu()[group.samples], minlength=num_classes)
        drawn += counts * (group.size / group.groups / batch * len(labels) / len(group.samples))
    return drawn / drawn.sum()


def class_weights(drawn: Tensor, labels: Tensor, estimates: Tensor, held_out: Tensor | None) -> Tensor:
    """What a clean sample of each class counts, so that reviews do not move the class frequencies: [K], 1 without any.

    Reviewed samples are where the model doubted a label, and so of some classes much more than of others; a clean head
    that learns their frequencies forgets the classes that they lack. Counted so, the batches have the classes as the
    samples audited at random have them, those held out among them. drawn [K]: `clean_frequencies`. labels int64 [C]: y.
    estimates bool [C]. held_out int64 [H].
    """
    labels, estimates = labels.cpu(), estimates.cpu()
    if estimates.all() or not estimates.any():
        return torch.ones_like(drawn)
    at_random = labels[estimates] if held_out is None else torch.cat([labels[estimates], held_out.cpu()])
    audited = 1 + torch.bincount(at_random, minlength=len(drawn))
    return audited / audited.sum() / drawn


def own_share(indices: Indices, process: Process) -> tuple[Indices, Indices | None]:
    """(this process's samples as it numbers them, their places in the whole batch), a list of steps each.

    None for the places: all of the batch is this process's.
    """
    if process.world == 1:
        return indices, None
    places = [(index % process.world == process.rank).nonzero().flatten() for index in indices]
    return [index[place] // process.world for index, place in zip(indices, places, strict=True)], places
