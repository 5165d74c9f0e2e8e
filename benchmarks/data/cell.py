"""One cell of the harness: noisy, clean and validation samples of one source under one noise, and what is true of them.

Shapes: N noisy samples, C clean ones, V for validation, E for the test, K classes, R annotators.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.data.noise import Noisy, apply_noise, counted_transition
from benchmarks.data.source import UNKNOWN, Role, Source
from benchmarks.data.spec import NoiseSpec
from benchmarks.methods.base import Problem
from fasten_model.errors import DataError
from fasten_model.train.seeds import generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What the methods get, and what only the harness knows."""

    problem: Problem
    truth: Tensor
    """int64 [N]: the true labels of the noisy samples; −1 where nobody knows (`own`)."""
    true_transition: Tensor
    """[K,K]: T counted over the noisy samples, or over all pairs of the source where few of their truths are known."""
    pairs: int
    """(true, given) pairs that it is counted from; without any it is the identity and says nothing."""
    expected_transition: Tensor | None
    """[K,K]: the T that the labels were drawn from, where the noise has one."""
    validation_images: Tensor
    """uint8 [V,3,S,S]."""
    validation_labels: Tensor
    """int64 [V]: true."""
    test_images: Tensor
    """uint8 [E,3,S,S]."""
    test_labels: Tensor
    """int64 [E]: true."""
    classes: tuple[str, ...]
    noise: NoiseSpec
    noisy_rows: Tensor
    """int64 [N]: rows of the source."""
    clean_rows: Tensor
    """int64 [C]."""
    validation_rows: Tensor
    """int64 [V]."""


def draw_cell(
    source: Source,
    noise: NoiseSpec,
    *,
    noisy: int,
    clean: int,
    validation: int,
    seed: int,
    imbalance: float = 1.0,
) -> Cell:
    """`noisy` + `clean` + `validation` different samples of the source, drawn and noised with `seed` alone.

    The clean set has as many samples of each class as there are (Kye et al. 2022: balanced), validation is drawn
    evenly, and the noisy set too, unless imbalance > 1: then its classes shrink exponentially, the first being
    `imbalance` times as frequent as the last (Cui et al., CVPR 2019). More clean or validation samples leave the noisy
    set as it is while the source has samples to spare. Raises DataError where it has too few.
    """
    if noisy < 1 or min(clean, validation) < 0 or not imbalance >= 1:
        raise DataError(
            f"noisy {noisy}, clean {clean}, validation {validation}, imbalance {imbalance:g}:"
            " noisy and imbalance must be 1 or more, the others 0 or more"
        )
    order = torch.randperm(len(source.train_labels), generator=generator(seed, "cell"))
    rows = _Rows.of(source, order, noise)
    if noise.kind not in ("own", "human") and len(rows.noisy) < noisy and (source.train_labels == UNKNOWN).any():
        raise DataError(
            f"{noise} is made from true labels, and {source.name} has {len(rows.noisy)} noisy samples with one, not "
            f"{noisy}; choose own, or ask for fewer"
        )
    clean_rows = _balanced(source, rows.clean, clean)
    # Where the data has no samples set aside for validation, those for the clean set serve.
    spare = rows.validation if len(rows.validation) else _without(rows.clean, clean_rows)
    validation_rows = _first(spare, validation, f"{source.name}: validation samples")
    candidates = _without(rows.noisy, torch.cat([clean_rows, validation_rows]))
    noisy_rows = _bulk(source, candidates.flip(0), noisy, imbalance)

    given, clean_given = (apply_noise(noise, source, drawn, seed) for drawn in (noisy_rows, clean_rows))
    truth = source.train_labels[noisy_rows]
    true_transition, pairs = _transition(source, noise, truth, given)
    return Cell(
        problem=Problem(
            noisy_images=source.train_images[noisy_rows],
            noisy_labels=given.labels,
            clean_images=source.train_images[clean_rows],
            clean_labels=source.train_labels[clean_rows],
            clean_given=clean_given.labels,
            votes=given.votes,
            clean_votes=clean_given.votes,
            num_classes=source.num_classes,
        ),
        truth=truth,
        true_transition=true_transition,
        pairs=pairs,
        expected_transition=given.expected,
        validation_images=source.train_images[validation_rows],
        validation_labels=source.train_labels[validation_rows],
        test_images=source.test_images,
        test_labels=source.test_labels,
        classes=source.classes,
        noise=noise,
        noisy_rows=noisy_rows,
        clean_rows=clean_rows,
        validation_rows=validation_rows,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """The rows, in random order, that each set may be drawn from."""

    noisy: Tensor
    clean: Tensor
    validation: Tensor

    @classmethod
    def of(cls, source: Source, order: Tensor, noise: NoiseSpec) -> "_Rows":
        roles = source.roles[order]
        known = source.train_labels[order] != UNKNOWN
        labelled = apply_noise(noise, source, order, 0).labels != UNKNOWN if noise.kind in ("own", "human") else known
        return cls(
            noisy=order[labelled & ((roles == Role.ANY) | (roles == Role.NOISY))],
            clean=order[known & ((roles == Role.ANY) | (roles == Role.CLEAN))],
            validation=order[known & (roles == Role.VALIDATION)],
        )


def _transition(source: Source, noise: NoiseSpec, truth: Tensor, given: Noisy) -> tuple[Tensor, int]:
    """(T, pairs it is of): counted over the noisy samples; where most of their truths are unknown, over every pair that
    the source has."""
    labels = given.labels
    if source.given is not None and noise.kind == "own" and float((truth == UNKNOWN).double().mean()) > 0.5:
        truth, labels = source.train_labels, source.given
    pairs = int(((truth != UNKNOWN) & (labels != UNKNOWN)).sum())
    return counted_transition(truth, labels, source.num_classes, given.expected), pairs


def _balanced(source: Source, rows: Tensor, count: int) -> Tensor:
    """`count` of `rows`, as many of each class as there are; classes that run short are made up for by the others."""
    _first(rows, count, f"{source.name}: clean samples")
    labels = source.train_labels[rows]
    # The place of each row among those of its class: all firsts, then all seconds, …; ties stay in random order.
    place = torch.empty_like(rows)
    for label in range(source.num_classes):
        members = (labels == label).nonzero().flatten()
        place[members] = torch.arange(len(members))
    return rows[place.argsort(stable=True)[:count]]


def _bulk(source: Source, rows: Tensor, count: int, imbalance: float) -> Tensor:
    """`count` of `rows`: the first ones, or as many of each class as the long tail wants."""
    if imbalance == 1:
        return _first(rows, count, f"{source.name}: noisy samples")
    labels = source.train_labels[rows]
    if (labels == UNKNOWN).any():
        raise DataError(f"a long tail needs the true label of every sample, and {source.name} lacks some")
    wanted = long_tail(count, source.num_classes, imbalance)
    chosen = torch.zeros_like(rows, dtype=torch.bool)
    for label, size in enumerate(wanted):
        members = (labels == label).nonzero().flatten()
        if len(members) < size:
            raise DataError(
                f"{source.name}: the long tail wants {size} noisy samples of class {source.classes[label]},"
                f" and {len(members)} are left; ask for fewer, or for a smaller imbalance"
            )
        chosen[members[:size]] = True
    return rows[chosen]


def long_tail(count: int, num_classes: int, imbalance: float) -> list[int]:
    """Class sizes that sum to `count` and shrink as imbalance^(−k/(K−1)), k = 0 … K−1."""
    weights = torch.logspace(0, -1, num_classes, base=imbalance, dtype=torch.float64)
    # Differences of rounded sums: each size is within one of its share, and they sum to `count`.
    edges = (weights.cumsum(0) / weights.sum() * count).round().long()
    return torch.diff(edges, prepend=torch.zeros(1, dtype=torch.int64)).tolist()


def _first(rows: Tensor, count: int, what: str) -> Tensor:
    if len(rows) < count:
        raise DataError(f"{what}: {count} wanted, and {len(rows)} are left; ask for fewer or raise --limit")
    return rows[:count]


def _without(rows: Tensor, taken: Tensor) -> Tensor:
    return rows[~torch.isin(rows, taken)]
