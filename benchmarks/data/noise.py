"""Label noise, applied to samples of a source.

Every random number belongs to a row of the source, not to its place in the draw: a sample gets the same wrong label
whatever else is drawn, and its label under `sym:0.4` is wrong wherever it was under `sym:0.2`.

Shapes: M samples in the source, n of them noised, K classes, R annotators. T[i,j] = p(given=j | true=i); rows sum to 1.
"""

from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.data.annotators import cast_votes, majority
from benchmarks.data.source import UNKNOWN, Source
from benchmarks.data.spec import NoiseSpec
from fasten_model.errors import DataError
from fasten_model.train.seeds import generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Noisy:
    """The labels of n samples as they were given."""

    labels: Tensor
    """int64 [n]; −1 where the data has none (`human`, `own`)."""
    votes: Tensor | None = None
    """int64 [n,R], −1 where that annotator gave no answer; None: there is one label a sample."""
    expected: Tensor | None = None
    """[K,K]: the T that the labels were drawn from; None where there is no such matrix."""


def apply_noise(spec: NoiseSpec, source: Source, index: Tensor, seed: int) -> Noisy:
    """Labels for the rows `index` int64 [n] of the training part.

    Raises DataError where the source lacks what this noise needs: a column, labels of its own, or known truths.
    """
    if spec.kind == "own":
        if source.given is None:
            raise DataError(f"the data set {source.name} has no wrong labels of its own; choose a noise, e.g. sym:0.4")
        return Noisy(labels=source.given[index])
    if spec.kind == "human":
        return _human(spec, source, index)
    truth = source.train_labels[index]
    if (truth == UNKNOWN).any():
        raise DataError(f"{spec} needs the true label of every sample, and {source.name} lacks some; choose own")
    match spec.kind:
        case "sym":
            return _symmetric(spec.rate, source, index, seed)
        case "asym":
            return _asymmetric(spec.rate, source, index, seed)
        case "instance":
            return _instance_dependent(spec.rate, source, index, seed)
        case "annotators":
            votes, turns = cast_votes(source, spec.annotators, index, seed)
            return Noisy(labels=majority(votes, turns, source.num_classes), votes=votes)


def _symmetric(rate: float, source: Source, index: Tensor, seed: int) -> Noisy:
    """T = (1 − r)·I + r/K: the true class is among those drawn from (FasTEN's reference)."""
    truth, num_classes = source.train_labels[index], source.num_classes
    chance = generator(seed, "noise", "sym")
    drawn = torch.randint(num_classes, (len(source.train_labels),), generator=chance)[index]
    flipped = torch.rand(len(source.train_labels), generator=chance)[index] < rate
    expected = (1 - rate) * torch.eye(num_classes) + rate / num_classes
    return Noisy(labels=torch.where(flipped, drawn, truth), expected=expected)


def _asymmetric(rate: float, source: Source, index: Tensor, seed: int) -> Noisy:
    """Row i of T: 1 − r at i, r at the class that i is mistaken for; 1 at i where it is not mistaken."""
    truth, mistaken = source.train_labels[index], torch.tensor(source.mistaken_for)
    flipped = torch.rand(len(source.train_labels), generator=generator(seed, "noise", "asym"))[index] < rate
    classes = torch.eye(source.num_classes)
    return Noisy(
        labels=torch.where(flipped, mistaken[truth], truth),
        expected=(1 - rate) * classes + rate * classes[mistaken],
    )


def _human(spec: NoiseSpec, source: Source, index: Tensor) -> Noisy:
    if not source.human:
        raise DataError(f"the data set {source.name} has no labels by people; {spec} needs cifar10n")
    if spec.column == "raters":
        raters = sorted(name for name in source.human if name.startswith("rater_"))
        votes = torch.stack([source.human[name][index] for name in raters], dim=1)  # [n, R]
        # Where all differ, the first rater speaks.
        turns = torch.arange(len(raters)).expand(len(index), -1)
        return Noisy(labels=majority(votes, turns, source.num_classes), votes=votes)
    if spec.column not in source.human:
        raise DataError(f"{source.name} has no labels {spec.column!r}; there are {', '.join(source.human)} and raters")
    return Noisy(labels=source.human[spec.column][index])


SPREAD = 0.1
"""Standard deviation of a sample's own rate of error around r (Xia et al. 2020)."""
PARTS_SIDE = 16
"""Images are seen by the noise at this side at most: the projection then stays small at K = 100."""


def _instance_dependent(rate: float, source: Source, index: Tensor, seed: int) -> Noisy:
    """Part-dependent noise as Xia et al. (NeurIPS 2020, appendix) simulate it.

    Sample m errs with probability q_m ~ N(r, 0.1²) cut to [0, 1]. If it does, its label is drawn from
    softmax(x_m W_y) without the entry of its true class y; the W_y [pixels, K] are standard normal, one a class.
    x is standardised per pixel over the source, where they do so per channel: a background that all images share
    would otherwise decide, and a whole class would be mistaken for one other.
    """
    count, num_classes = len(source.train_labels), source.num_classes
    chance = generator(seed, "noise", "instance")
    quantile, flip, choice = torch.rand(3, count, generator=chance, dtype=torch.float64)
    errs = flip[index] < truncated_normal(quantile[index], rate, SPREAD)

    mean, spread = _pixel_statistics(source.train_images)
    truth = source.train_labels[index]
    labels = truth.clone()
    for label in range(num_classes):
        projection = torch.randn(len(mean), num_classes, generator=chance)  # W_y, drawn for every class in turn
        rows = (errs & (truth == label)).nonzero().flatten()
        if len(rows) == 0:
            continue
        parts = (_parts(source.train_images[index[rows]]) - mean) / spread  # [rows, pixels]
        scores = parts @ projection
        scores[:, label] = -torch.inf
        cumulative = torch.softmax(scores.double(), dim=1).cumsum(dim=1)
        drawn = torch.searchsorted(cumulative, choice[index[rows], None] * cumulative[:, -1:]).flatten()
        labels[rows] = drawn
    return Noisy(labels=labels)


def truncated_normal(quantile: Tensor, mean: float, spread: float) -> Tensor:
    """The quantiles [n] in 0…1 of N(mean, spread²) cut to [0, 1]: inverse of its distribution function."""
    low, high = (NormalDist(mean, spread).cdf(edge) for edge in (0.0, 1.0))
    standard: Tensor = torch.special.ndtri(low + quantile * (high - low))
    return (mean + spread * standard).clamp(0, 1)


def _parts(images: Tensor) -> Tensor:
    """uint8 [n,3,S,S] → float [n, pixels], at most PARTS_SIDE × PARTS_SIDE × 3 of them, in about ±2."""
    side = min(images.shape[-1], PARTS_SIDE)
    return ((functional.adaptive_avg_pool2d(images.float(), side) - 127.5) / 64).flatten(1)


def _pixel_statistics(images: Tensor, most: int = 5000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [pixels] over the first samples of the source; a pixel that never varies gets 1."""
    parts = _parts(images[:most])
    spread = parts.std(dim=0)
    return parts.mean(dim=0), torch.where(spread > 1e-3, spread, torch.ones_like(spread))


def counted_transition(truth: Tensor, given: Tensor, num_classes: int, otherwise: Tensor | None = None) -> Tensor:
    """T [K,K] counted over pairs int64 [n]; pairs with a −1 do not count, and rows sum to 1.

    A class without a pair gets its row of `otherwise` [K,K], or of the identity.
    """
    known = (truth != UNKNOWN) & (given != UNKNOWN)
    counts = torch.zeros(num_classes * num_classes, dtype=torch.float64)
    pairs = truth[known] * num_classes + given[known]
    counts.index_add_(0, pairs, torch.ones(len(pairs), dtype=torch.float64))
    counts = counts.view(num_classes, num_classes)
    fallback = torch.eye(num_classes) if otherwise is None else otherwise
    totals = counts.sum(dim=1, keepdim=True)
    return torch.where(totals > 0, counts / totals.clamp(min=1), fallback.double()).float()
