"""The lowest confidence from which on suggestions are right often enough, by fixed-sequence testing.

*Learn then Test* (Angelopoulos, Bates, Candès, Jordan, Lei, 2021), section 2.3: hypotheses in an order fixed before
looking at what is right, each tested at the whole level; the first that is not rejected ends the sequence. An accepted
value for which the hypothesis holds is then as improbable as the level says, however many are tried.

Shapes: n suggestions of the bulk, P of the pairs, M values of ρ.
"""

from operator import sub

import torch
from torch import Tensor

from fasten_model.binomial import failures_allowed, tries_needed, upper_tail

_STEPS = 20
"""Values of ρ in the sequence: each lets another twentieth of the suggestions through. More of them gain no coverage
worth telling, and stop closer to where the promise breaks."""
_ROUNDING = 1e-5
"""By how much a confidence may come out differently when it is computed again: in other batches, or more precisely."""


def lowest_passing(
    confidence: Tensor,
    pair_confidence: Tensor,
    pair_right: Tensor,
    target: float,
    level: float,
    *,
    taken: Tensor | None = None,
) -> tuple[float | None, int]:
    """(The last ρ before the first failure, None where the first fails; how many pairs lacked at the first).

    The sequence descends along quantiles of the bulk's confidences. It does not start at the highest ρ, which next to
    no pair reaches, so that nothing could ever be rejected, but where the test is the likeliest to succeed if
    confidences were right: with few pairs at the first ρ that enough of them reach, with many further down, where
    there is room for an error. That, like the quantiles, depends on confidences alone, not on what is right. Given the
    confidences, the suggestions are right independently of each other, and for the mean of their probabilities the
    binomial tail is exact or errs to the safe side (Hoeffding, 1956): so this start is as good as one fixed beforehand.

    confidence float64 [n]: of the bulk. pair_confidence float64 [P], pair_right bool [P]. target: the share that is to
    be right. level: probability with which a ρ with a lower share may be accepted.
    """
    rhos = _quantiles(confidence)
    surest, order = pair_confidence.sort(descending=True, stable=True)
    errors = [0, *(~pair_right[order]).cumsum(dim=0).tolist()]
    believed = [0.0, *surest.cumsum(dim=0).tolist()]
    tries = _reaching(pair_confidence, rhos)
    gone = torch.zeros_like(order) if taken is None else taken[order]
    targets = [
        stricter(target, left, gone[:count]) for left, count in zip(_reaching(confidence, rhos), tries, strict=True)
    ]
    allowed = [failures_allowed(count, each, level) for count, each in zip(tries, targets, strict=True)]
    hopes = [
        upper_tail(count - most, count, min(1.0, believed[count] / count)) if most >= 0 else 0.0
        for count, most in zip(tries, allowed, strict=True)
    ]
    # Where confidences are low, every hope may be too small for a float.
    start = max((at for at, most in enumerate(allowed) if most >= 0), key=hopes.__getitem__, default=None)
    if start is None:
        needed = [tries_needed(each, level) for each in targets or [target]]
        return None, min(map(sub, needed, tries or [0]))
    lowest = None
    for rho, count, most in zip(rhos[start:].tolist(), tries[start:], allowed[start:], strict=True):
        if errors[count] > most:
            break
        lowest = rho
    if lowest is not None:
        return _just_below(lowest, torch.cat([confidence, pair_confidence])), 0
    return None, tries_needed(targets[start], level, failures=errors[tries[start]]) - tries[start]


def _just_below(rho: float, confidences: Tensor) -> float:
    """A ρ that the same ones of `confidences` reach, and none by a hair: a sample whose own confidence is ρ would not
    reach it any more after a rounding error."""
    lower = confidences[confidences < rho]
    midway = (rho + float(lower.max())) / 2 if len(lower) else 0.0
    return max(midway, rho - _ROUNDING)


def stricter(target: float, left: int, taken: Tensor) -> float:
    """The share of right pairs, int64 [n] `taken` since each was drawn, that leaves `target` of those `left` right.

    At worst only right ones were taken, so that all the wrong ones are still there: w of them among the r left. A pair
    after which d were taken is then wrong with a probability of at least w/(r + d), and w > (1 − target)·r would make
    the pairs wrong with a mean probability above (1 − target)·r·mean(1/(r + d)).
    """
    return 1 - (1 - target) * share_left(left, taken)


def share_left(left: int, taken: Tensor) -> float:
    """r·mean(1/(r + d)): 1 where nothing was taken. taken int64 [n]."""
    if not taken.any():
        return 1.0
    return float((max(1, left) / (max(1, left) + taken.double())).mean())


def _reaching(confidence: Tensor, rhos: Tensor) -> list[int]:
    """How many of the confidences [n] reach each of the descending ρ [M]."""
    surest = confidence.sort(descending=True).values
    counts: list[int] = torch.searchsorted(-surest, -rhos, right=True).tolist()
    return counts


def _quantiles(confidence: Tensor) -> Tensor:
    """Descending, each of them one of the confidences [n], the lowest of all the last: [M]."""
    ordered = confidence.sort(descending=True).values
    count = len(ordered)
    places = sorted({(step * count + _STEPS - 1) // _STEPS - 1 for step in range(1, _STEPS + 1)}) if count else []
    return ordered[places]
