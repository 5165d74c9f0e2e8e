"""What the harness measures, as pure functions.

Shapes: N samples, K classes. T[i,j] = p(given=j | true=i); rows sum to 1. A measure that is undefined (no relabel to be
right or wrong, no wrong label to correct) is None, never 0.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ECE_BINS = 15


def accuracy(predicted: Tensor, truth: Tensor) -> float | None:
    """Share of int64 [N] that agrees with `truth`."""
    return float((predicted == truth).double().mean()) if len(truth) else None


def expected_calibration_error(probabilities: Tensor, truth: Tensor, bins: int = ECE_BINS) -> float | None:
    """Σ_b |B_b|/N · |accuracy(B_b) − mean confidence(B_b)| over `bins` bins of equal width (Guo et al. 2017, eq. 3).

    Bin b holds confidences in (b/bins, (b+1)/bins]. probabilities [N,K]; truth int64 [N].
    """
    if not len(truth):
        return None
    confidence, predicted = probabilities.double().max(dim=1)
    bin_of = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = (predicted == truth).double() - confidence  # summed over a bin: |B|·(accuracy − confidence)
    sums = gap.new_zeros(bins).index_add_(0, bin_of, gap)
    return float(sums.abs().sum() / len(truth))


@dataclass(frozen=True, kw_only=True, slots=True)
class TransitionError:
    """How far T̂ is from T."""

    absolute: float
    """Mean of |T̂ − T| over the K² entries."""
    chi2: float
    """Pearson χ², a mean over rows of Σ_j (T̂[i,j] − T[i,j])² / T[i,j], over the entries that T allows (T > 0)."""
    true_diagonal: float
    """Mean of T's diagonal: 1 − it is the noise."""
    estimated_diagonal: float
    """Mean of T̂'s diagonal."""


def transition_error(estimated: Tensor, true: Tensor) -> TransitionError:
    """T̂ [K,K] against T [K,K]; both have rows that sum to 1."""
    found, wanted = estimated.double().cpu(), true.double().cpu()
    allowed = wanted > 0
    squared = torch.where(allowed, (found - wanted).square() / torch.where(allowed, wanted, 1), 0)
    return TransitionError(
        absolute=float((found - wanted).abs().mean()),
        chi2=float(squared.sum(dim=1).mean()),
        true_diagonal=float(wanted.diagonal().mean()),
        estimated_diagonal=float(found.diagonal().mean()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """What became of the labels of the noisy set."""

    given: float | None
    """Share of the labels that were right as given."""
    correct: float | None
    """Share of all samples whose likeliest class, by the method's belief, is the truth."""
    correct_of_wrong: float | None
    """The same among the samples whose given label is wrong."""
    precision: float | None
    """Of the relabels (belief ≥ ρ in a class that is not the given one): the share that is right."""
    recall: float | None
    """Of the wrong labels: the share that a relabel sets right."""
    relabelled: float | None
    """Share of all samples that are relabelled."""


def correction(beliefs: Tensor, given: Tensor, truth: Tensor, rho: float) -> Correction:
    """beliefs [N,K], rows sum to 1; given and truth int64 [N]; ρ: the least belief that relabels."""
    confidence, believed = beliefs.cpu().max(dim=1)
    wrong, right = given != truth, believed == truth
    relabelled = (confidence >= rho) & (believed != given)
    return Correction(
        given=_share(~wrong),
        correct=_share(right),
        correct_of_wrong=_share(right[wrong]),
        precision=_share(right[relabelled]),
        recall=_share((relabelled & right)[wrong]),
        relabelled=_share(relabelled),
    )


def _share(holds: Tensor) -> float | None:
    return float(holds.double().mean()) if len(holds) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean over seeds."""

    mean: float
    half_width: float | None
    """Of the 95 % confidence interval (Student's t, n − 1 degrees of freedom); None of a single value."""
    count: int


def mean_with_interval(values: Sequence[float]) -> Mean:
    """Mean ± t(0.975, n−1)·s/√n. Raises ValueError of no values."""
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Mean(mean=mean, half_width=None, count=1)
    error = statistics.stdev(values) / math.sqrt(count)
    return Mean(mean=mean, half_width=student_t_975(count - 1) * error, count=count)


def student_t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with `degrees` ≥ 1 degrees of freedom.

    By bisection of the exact distribution function (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4): a finite sum of
    powers of cos θ, θ = atan(t/√ν).
    """
    low, high = 0.0, 64.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """P(|T| ≤ t)."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
