"""What k successes in n independent tries say of the chance of success, exactly (Clopper and Pearson, 1934).

In double precision and without SciPy: sums of binomial terms by their logarithms, and bisection.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch

_HALVINGS = 60


def upper_tail(successes: int, tries: int, chance: float) -> float:
    """P(X ≥ successes), X ~ Binomial(tries, chance)."""
    if successes <= 0 or chance >= 1:
        return 1.0 if successes <= tries else 0.0
    if successes > tries or chance <= 0:
        return 0.0
    hits = torch.arange(successes, tries + 1, dtype=torch.float64)
    misses = tries - hits
    log_terms = (
        math.lgamma(tries + 1)
        - torch.lgamma(hits + 1)
        - torch.lgamma(misses + 1)
        + hits * math.log(chance)
        + misses * math.log1p(-chance)
    )
    return min(1.0, float(log_terms.logsumexp(dim=0).exp()))


def lower_bound(successes: int, tries: int, level: float) -> float:
    """The chance below which so many successes have a probability of at most `level`: 0 where there are none.

    Whatever the chance is, this lies above it with a probability of at most `level`.
    """
    return _largest(lambda chance: upper_tail(successes, tries, chance) <= level)


def upper_bound(successes: int, tries: int, level: float) -> float:
    """The same from above: it lies below the chance with a probability of at most `level`; 1 where all succeed."""
    return 1 - lower_bound(tries - successes, tries, level)


@lru_cache(maxsize=2**16)
def tries_needed(chance: float, level: float, *, failures: int = 0) -> int:
    """The fewest tries, all but `failures` of them successes, that exclude every chance below `chance`."""
    low, high = failures, failures + 1
    while upper_tail(high - failures, high, chance) > level:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_tail(middle - failures, middle, chance) > level else (low, middle)
    return high


@lru_cache(maxsize=2**16)
def failures_allowed(tries: int, chance: float, level: float) -> int:
    """The most failures among so many tries that still exclude every chance below `chance`; −1: not even none does."""
    low, high = -1, tries
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_tail(tries - middle, tries, chance) <= level else (low, middle)
    return low


def _largest(holds: Callable[[float], bool]) -> float:
    """The largest chance from 0 to 1 at which something holds that holds below it, too; 0 where it never does."""
    if holds(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
