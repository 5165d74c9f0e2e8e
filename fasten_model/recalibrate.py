"""What precision to expect of relabels: q's confidence, recalibrated by the few held-out pairs there are.

q may be over-confident: a class-conditional T is wrong for labels whose errors depend on the image, as people's do.
Logistic regression on the held-out pairs (Platt, 1999), the prior of which says that q is about right, makes of both
one expectation. It is an expectation and promises nothing: `fasten_model.relabel` does, from counts alone.

Shapes: n suggestions of the bulk, P of the pairs, M grid points, L levels of confidence.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_OFFSET_SPREAD, _LOG_SLOPE_SPREAD = 1.5, 0.3
"""Prior standard deviations of a and log b: a = −1.5 is a model that says 95 % and is right in 81 % of the cases."""
_LOWEST, _HIGHEST = -3.0, 10.0
"""Bounds of the log-odds of a confidence."""
_STEP = 0.1
"""Confidences are told apart by this step of their log-odds."""
_LEVELS = torch.arange(_LOWEST + _STEP / 2, _HIGHEST, _STEP, dtype=torch.float64)
"""The middles of the steps, [L]."""


def expected_precision(confidence: Tensor, pair_confidence: Tensor, pair_right: Tensor) -> float | None:
    """The mean probability that the bulk's suggestions are right, given the pairs; None where there are none.

    With c = max q of a suggestion, it is right with probability σ(a + b·log(c/(1−c))). Prior: a ~ N(0, 1.5²),
    log b ~ N(0, 0.3²), so a = 0 and b = 1 trust q; the pairs' suggestions, at whatever confidence, are the evidence.

    confidence float64 [n]: of those to be judged. pair_confidence float64 [P], pair_right bool [P].
    """
    if len(confidence) == 0:
        return None
    offset, slope, weight = possible(pair_confidence, pair_right)
    right = torch.sigmoid(offset[:, None] + slope[:, None] * _LEVELS)  # [M, L]
    return float(weight @ (right @ _counts(confidence))) / len(confidence)


def possible(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, posterior weight) over a grid, [M] each, given pairs [P]; weights sum to 1."""
    offsets = torch.linspace(-4, 3, 57, dtype=torch.float64)
    slopes = torch.linspace(-3, 3, 25, dtype=torch.float64)
    a, log_b = torch.cartesian_prod(offsets, slopes).unbind(dim=1)
    prior = -(a.square() + log_b.square()) / 2
    offset, slope = _OFFSET_SPREAD * a, torch.exp(_LOG_SLOPE_SPREAD * log_b)
    logit = offset[:, None] + slope[:, None] * _LEVELS  # [M, L]
    evidence = logsigmoid(logit) @ _counts(confidence[right]) + logsigmoid(-logit) @ _counts(confidence[~right])
    return offset, slope, torch.softmax(prior + evidence, dim=0)


def _counts(confidence: Tensor) -> Tensor:
    """How many lie in each level: float64 [L]."""
    level = ((log_odds(confidence) - _LOWEST) / _STEP).floor().long().clamp(max=len(_LEVELS) - 1)
    return torch.bincount(level, minlength=len(_LEVELS)).double()


def log_odds(confidence: Tensor) -> Tensor:
    """log(c/(1−c)), within bounds; any shape."""
    return torch.logit(confidence, eps=1e-12).clamp(_LOWEST, _HIGHEST)
