"""From which confidence on labels are changed without asking anybody, so that a promised share of the changes is right.

A relabel is suggested where argmax q is not the given label; it is made where max q ≥ ρ. What q says of its own
precision cannot be taken at its word: a class-conditional T is wrong for labels whose errors depend on the image, as
people's do, and then q is over-confident. Held-out pairs (audited at random, bulk label known, never trained on) show
how often suggestions are right, but they are few. So the two are joined: q's confidence is recalibrated by logistic
regression (Platt, 1999), the prior of which says that q is about right, and the promise is a lower bound under what
the pairs leave possible. `benchmarks/relabel_precision.py` compares this rule with others.

Shapes: N bulk samples, P held-out pairs, K classes, M grid points.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TARGET_PRECISION = 0.95
"""Share of the changed labels that are to be right."""
NEVER = 2.0
"""The ρ that nothing reaches."""
LEAST_PAIRS = 5
"""Held-out relabels that a ρ must have been seen at work on. Beyond the last of them a promise would be extrapolated,
and that far out precision need not follow confidence: on people's labels it does not."""
DOUBT = 0.1
"""Probability, given the pairs, that the precision is below what is promised."""
_OFFSET_SPREAD, _LOG_SLOPE_SPREAD = 1.5, 0.3
"""Prior standard deviations of a and log b: a = −1.5 is a model that says 95 % and is right in 81 % of the cases."""
_STEP, _LOWEST, _HIGHEST = 0.1, -3.0, 10.0
"""Confidences are told apart by this step of their log-odds, within these bounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RhoChoice:
    """A threshold ρ and what to expect of the relabels that it lets through."""

    rho: float
    """Change a label where max q ≥ ρ. `NEVER`: no ρ keeps the promise."""
    target_precision: float | None
    """The precision that ρ was chosen for; None: ρ was set by hand."""
    promised_precision: float | None
    """What at least the precision is, with a probability of 90 % given the pairs; None where nothing is relabelled."""
    expected_precision: float | None
    """What the precision is on average, given the pairs."""
    coverage: float
    """Share of the bulk labels that are changed."""
    pairs: int
    """Held-out pairs that ρ would have changed the label of."""
    pairs_right: int
    """Those of them that it would have set right."""
    pairs_held_out: int
    """All held-out pairs."""

    def sentence(self) -> str:
        """The choice in one line, for people."""
        if self.rho >= NEVER and self.target_precision is None:
            return "relabels nothing, as it was set"
        if self.rho >= NEVER and self.pairs_held_out == 0:
            return "relabels nothing: no held-out audited sample has its bulk label, so nothing can be promised"
        if self.rho >= NEVER:
            return (
                f"relabels nothing: on {self.pairs_held_out} held-out pairs no precision of "
                f"{_percent(self.target_precision or 0)} can be promised"
            )
        if self.expected_precision is None:
            return f"relabels from {_shown(self.rho)} on; there is nothing to relabel"
        by_hand = " (set by hand)" if self.target_precision is None else ""
        return (
            f"relabels from {_shown(self.rho)} on{by_hand}; expected precision {_percent(self.expected_precision)} "
            f"({self.pairs_right} of {self.pairs} held-out pairs), {_percent(self.coverage)} of labels"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestions:
    """The samples whose label q would change, as far as ρ is concerned."""

    confidence: Tensor
    """float64 [n]: max q."""
    right: Tensor
    """bool [n]: argmax q is the true class. Empty where that is not known."""
    of: int
    """Samples looked at, those with no suggestion included."""


def suggestions(posterior: Tensor, given_labels: Tensor, true_labels: Tensor | None = None) -> Suggestions:
    """The samples with argmax q ≠ given: posterior q [N,K], given_labels int64 [N], true_labels int64 [N] if known."""
    q = posterior.detach().double().cpu()
    given = given_labels.cpu()
    confidence, best = q.max(dim=1) if len(q) else (q.new_empty(0), given.new_empty(0))
    changed = (best != given) & (given >= 0)
    right = torch.empty(0, dtype=torch.bool) if true_labels is None else (best == true_labels.cpu())[changed]
    return Suggestions(confidence=confidence[changed], right=right, of=len(q))


def choose_rho(
    bulk: Suggestions,
    pairs: Suggestions,
    target_precision: float,
    *,
    doubt: float = DOUBT,
    least_pairs: int = LEAST_PAIRS,
) -> RhoChoice:
    """The lowest ρ at which at least `target_precision` of the bulk's relabels are right, as far as can be promised.

    With c = max q of a suggestion, it is right with probability σ(a + b·log(c/(1−c))). Prior: a ~ N(0, 1.5²),
    log b ~ N(0, 0.3²), so a = 0 and b = 1 trust q. The pairs' suggestions, at whatever confidence, are the evidence.
    Each (a, b) has a mean over the bulk's relabels at ρ: their precision; its 10 % quantile under the posterior of
    (a, b) is what is promised (`doubt`). With fewer relabels than `least_pairs` among the pairs no ρ is acceptable.

    bulk: the labels that ρ is for. pairs: held-out samples, audited at random, none of which trained the model or
    entered the T of their q. (That temperature and γ were fitted to them, and the temperatures that training corrected
    by, is a few numbers' worth of favour.)
    """
    thresholds, promised, _ = _precision(bulk, pairs, doubt)
    seen = (pairs.confidence[None] >= thresholds[:, None]).sum(dim=1)  # [B]
    fits = ((promised >= target_precision) & (seen >= least_pairs)).nonzero().flatten()
    rho = float(thresholds[fits[-1]]) if len(fits) else NEVER
    return _choice(rho, bulk, pairs, target_precision, doubt)


def judge_rho(rho: float, bulk: Suggestions, pairs: Suggestions) -> RhoChoice:
    """What to expect of a ρ that somebody has set."""
    return _choice(rho if rho <= 1 else NEVER, bulk, pairs, None, DOUBT)


def _choice(rho: float, bulk: Suggestions, pairs: Suggestions, target: float | None, doubt: float) -> RhoChoice:
    changed, tried = bulk.confidence >= rho, pairs.confidence >= rho
    relabeled = Suggestions(confidence=bulk.confidence[changed], right=bulk.right[:0], of=bulk.of)
    _, promised, expected = _precision(relabeled, pairs, doubt)
    return RhoChoice(
        rho=rho,
        target_precision=target,
        promised_precision=float(promised[-1]) if len(promised) else None,
        expected_precision=float(expected[-1]) if len(expected) else None,
        coverage=int(changed.sum()) / max(1, bulk.of),
        pairs=int(tried.sum()),
        pairs_right=int((tried & pairs.right).sum()),
        pairs_held_out=pairs.of,
    )


def _precision(bulk: Suggestions, pairs: Suggestions, doubt: float) -> tuple[Tensor, Tensor, Tensor]:
    """(ρ, promised, expected precision) at each level that the bulk's suggestions have, the highest first: [B] each."""
    offset, slope, weight = _possible(pairs)
    levels = torch.arange(round((_HIGHEST - _LOWEST) / _STEP), dtype=torch.float64)
    lower_edge = _LOWEST + _STEP * levels
    level = ((_log_odds(bulk.confidence) - _LOWEST) / _STEP).floor().clamp(0, len(levels) - 1).long()
    count = torch.bincount(level, minlength=len(levels))
    used = count.nonzero().flatten().flip(0)
    count, lower_edge = count[used], lower_edge[used]
    right = torch.sigmoid(offset[:, None] + slope[:, None] * (lower_edge + _STEP / 2))  # [M, B]
    precision = (right * count).cumsum(dim=1) / count.cumsum(dim=0)
    thresholds = torch.where(used == 0, 0.0, torch.sigmoid(lower_edge))
    return thresholds, _quantile(precision, weight, doubt), weight @ precision


def _possible(pairs: Suggestions) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, posterior weight) over a grid, [M] each; weights sum to 1."""
    offsets = torch.linspace(-4, 3, 57, dtype=torch.float64)
    slopes = torch.linspace(-3, 3, 25, dtype=torch.float64)
    a, log_b = torch.cartesian_prod(offsets, slopes).unbind(dim=1)
    prior = -(a.square() + log_b.square()) / 2
    offset, slope = _OFFSET_SPREAD * a, torch.exp(_LOG_SLOPE_SPREAD * log_b)
    logit = offset[:, None] + slope[:, None] * _log_odds(pairs.confidence)  # [M, n]
    evidence = -torch.nn.functional.softplus(torch.where(pairs.right, -logit, logit)).sum(dim=1)
    return offset, slope, torch.softmax(prior + evidence, dim=0)


def _quantile(values: Tensor, weight: Tensor, share: float) -> Tensor:
    """The value below which `share` of the weight [M] lies, of each column of values [M,B]: [B]."""
    ordered, order = values.sort(dim=0)
    reached = weight[order].cumsum(dim=0) >= share
    return ordered.gather(0, reached.int().argmax(dim=0, keepdim=True)).squeeze(0)


def _log_odds(confidence: Tensor) -> Tensor:
    edge = 1e-12
    return torch.logit(confidence, eps=edge).clamp(_LOWEST, _HIGHEST)


def _shown(rho: float) -> str:
    """With the digits that tell it from 1: 0.93, 0.9981."""
    digits = 2 if rho < 0.99 else 4
    return f"{rho:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
