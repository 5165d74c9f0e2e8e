"""What precision to expect of relabels: q's confidence, recalibrated by the few held-out pairs there are.

q may be over-confident: a class-conditional T is wrong for labels whose errors depend on the image, as people's do.
Logistic regression on the held-out pairs (Platt, 1999), the prior of which says that q is about right, makes of both
one expectation. It is an expectation and promises nothing: `fasten_model.relabel` does, from counts alone.

Shapes: n suggestions of the bulk, P of the pairs, M grid points.
"""

import torch
from torch import Tensor

_OFFSET_SPREAD, _LOG_SLOPE_SPREAD = 1.5, 0.3
"""Prior standard deviations of a and log b: a = −1.5 is a model that says 95 % and is right in 81 % of the cases."""
_LOWEST, _HIGHEST = -3.0, 10.0
"""Bounds of the log-odds of a confidence."""
_STEP = 0.1
"""Confidences of the bulk are told apart by this step of their log-odds."""


def expected_precision(confidence: Tensor, pair_confidence: Tensor, pair_right: Tensor) -> float | None:
    """The mean probability that the bulk's suggestions are right, given the pairs; None where there are none.

    With c = max q of a suggestion, it is right with probability σ(a + b·log(c/(1−c))). Prior: a ~ N(0, 1.5²),
    log b ~ N(0, 0.3²), so a = 0 and b = 1 trust q; the pairs' suggestions, at whatever confidence, are the evidence.

    confidence float64 [n]: of those to be judged. pair_confidence float64 [P], pair_right bool [P].
    """
    if len(confidence) == 0:
        return None
    offset, slope, weight = possible(pair_confidence, pair_right)
    level = ((log_odds(confidence) - _LOWEST) / _STEP).floor().long()
    count = torch.bincount(level)
    middle = _LOWEST + _STEP * (torch.arange(len(count), dtype=torch.float64) + 0.5)
    right = torch.sigmoid(offset[:, None] + slope[:, None] * middle)  # [M, levels]
    return float(weight @ (right @ count.double())) / len(confidence)


def possible(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, posterior weight) over a grid, [M] each, given pairs [P]; weights sum to 1."""
    offsets = torch.linspace(-4, 3, 57, dtype=torch.float64)
    slopes = torch.linspace(-3, 3, 25, dtype=torch.float64)
    a, log_b = torch.cartesian_prod(offsets, slopes).unbind(dim=1)
    prior = -(a.square() + log_b.square()) / 2
    offset, slope = _OFFSET_SPREAD * a, torch.exp(_LOG_SLOPE_SPREAD * log_b)
    logit = offset[:, None] + slope[:, None] * log_odds(confidence)  # [M, P]
    evidence = -torch.nn.functional.softplus(torch.where(right, -logit, logit)).sum(dim=1)
    return offset, slope, torch.softmax(prior + evidence, dim=0)


def log_odds(confidence: Tensor) -> Tensor:
    """log(c/(1−c)), within bounds; any shape."""
    return torch.logit(confidence, eps=1e-12).clamp(_LOWEST, _HIGHEST - _STEP / 2)
