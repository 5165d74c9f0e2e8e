"""Rules that say which labels a model may change by itself, all given the same evidence.

Shapes: M samples that trained with the label that they came with, P of them drawn as held-out pairs, the other N the
bulk that is judged; K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.calibrate import fit_temperature
from fasten_model.posterior import soft_count_transition
from fasten_model.recalibrate import log_odds, possible
from fasten_model.relabel import CERTAINTY, NEVER, Suggestions, choose_rho, suggestions
from fasten_model.stacking import fit_weights, stacked

TARGET = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One trained model and what it says of samples whose given labels it was trained on, before any temperature."""

    logits: Tensor
    """[M,K]"""
    visits: Tensor
    """[M,K]: the mean of log p over the visits of training."""
    given: Tensor
    """int64 [M]: what was trained on."""
    true: Tensor
    """int64 [M]: a rule sees those of the held-out pairs that are drawn."""
    taught: Tensor
    """int64 [C,2]: (true, given) of the audited samples that were trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a rule knows, and the answers."""

    p: Tensor
    """[N,K]: calibrated."""
    given: Tensor
    true: Tensor
    """int64 [N]; for `outcome` alone."""
    bulk: Suggestions
    pairs: Suggestions


Rule = Callable[[Evidence], float | Tensor]
"""ρ for max q, or by the class that is suggested, float64 [K]; or the new labels int64 [N]."""


def gather(judged: Judged, held: Tensor) -> Evidence:
    """What `fasten_model.fitting` makes of the model with the rows `held` int64 [P] as held-out pairs."""
    others = torch.ones(len(judged.true), dtype=torch.bool)
    others[held] = False
    temperature = fit_temperature(judged.logits[held], judged.true[held])
    p = torch.softmax(judged.logits[others].double() / temperature, dim=1)
    given, true, said = judged.given[others], judged.true[others], judged.given[held]

    def likelihood(pairs: Tensor) -> Tensor:
        """log T of the bulk and these pairs, float64 [K,K] by given label."""
        return soft_count_transition(p, given, p.shape[1], pairs=pairs).double().log().t()

    without = likelihood(judged.taught)
    every = likelihood(torch.cat([judged.taught, torch.stack([judged.true[held], said], dim=1)]))
    log_p, visits = torch.log_softmax(judged.logits.double(), dim=1), judged.visits.double()
    weights = fit_weights(log_p[held], visits[held], without[said], judged.true[held])
    return Evidence(
        p=p,
        given=given,
        true=true,
        bulk=suggestions(stacked(log_p[others], visits[others], every[given], weights), given, true),
        pairs=suggestions(stacked(log_p[held], visits[held], without[said], weights), said, judged.true[held]),
    )


def outcome(decision: float | Tensor, evidence: Evidence) -> tuple[int, int]:
    """(labels changed, of these right)."""
    if isinstance(decision, Tensor) and not decision.is_floating_point():
        changed = decision != evidence.given
        return int(changed.sum()), int((decision == evidence.true)[changed].sum())
    made = evidence.bulk.reaching(torch.as_tensor(decision, dtype=torch.float64).reshape(-1))
    return len(made.right), int(made.right.sum())


def paper(evidence: Evidence) -> Tensor:
    """argmax p where max p ≥ 0.8 (Kye et al. 2022, eq. 6)."""
    confidence, best = evidence.p.max(dim=1)
    return torch.where(confidence >= 0.8, best, evidence.given)


def expectation(evidence: Evidence) -> float:
    """The lowest ρ at which the mean of max q over the relabels is the target: q is taken at its word."""
    confidence = evidence.bulk.confidence.sort(descending=True).values
    mean = confidence.cumsum(dim=0) / torch.arange(1, len(confidence) + 1)
    fits = (mean >= TARGET).nonzero().flatten()
    return float(confidence[fits[-1]]) if len(fits) else NEVER


def by_hand(rho: float) -> Rule:
    """A ρ of all classes alike."""
    return lambda _: rho


def recalibrated(*, doubt: float = 0.1, least_pairs: int = 5) -> Rule:
    """The lowest ρ whose precision reaches the target with a probability of 1 − `doubt`, if Platt's model holds.

    A suggestion of confidence c is right with probability σ(a + b·log(c/(1−c))); every (a, b), weighted by prior and
    pairs, has a mean over the bulk's relabels, and the `doubt` quantile of these is what is promised. So that nothing
    is promised beyond the last pair, `least_pairs` are wanted among those that reach ρ.
    """

    def rule(evidence: Evidence) -> float:
        surest = evidence.bulk.confidence.sort(descending=True).values
        offset, slope, weight = possible(evidence.pairs.confidence, evidence.pairs.right)
        right = torch.sigmoid(offset[:, None] + slope[:, None] * log_odds(surest))  # [M, n]
        places = torch.linspace(0, len(surest) - 1, min(40, len(surest))).long()
        precision = (right.cumsum(dim=1) / torch.arange(1, len(surest) + 1))[:, places]
        ordered, order = precision.sort(dim=0)
        place = (weight[order].cumsum(dim=0) < doubt).sum(dim=0).clamp(max=len(weight) - 1)
        promised = ordered.gather(0, place[None]).squeeze(0)
        seen = (evidence.pairs.confidence[:, None] >= surest[places]).sum(dim=0)
        fits = ((promised >= TARGET) & (seen >= least_pairs)).nonzero().flatten()
        return float(surest[places[fits[-1]]]) if len(fits) else NEVER

    return rule


def learn_then_test(*, certainty: float = CERTAINTY, per_class: bool = True) -> Rule:
    """`fasten_model.relabel.choose_rho`."""

    def rule(evidence: Evidence) -> Tensor:
        num_classes = evidence.p.shape[1]
        choice = choose_rho(
            evidence.bulk,
            evidence.pairs,
            TARGET,
            certainty=certainty,
            num_classes=num_classes if per_class else None,
        )
        return torch.tensor(choice.per_class or (choice.rho,) * num_classes, dtype=torch.float64)

    return rule


PAPER = "max p ≥ 0.8 (paper)"
RULES: dict[str, Rule] = {
    PAPER: paper,
    "max q ≥ 0.8": by_hand(0.8),
    "max q ≥ 0.95": by_hand(0.95),
    "q's own expectation": expectation,
    "recalibrated q (the rule before)": recalibrated(),
    "**Learn then Test (ours)**": learn_then_test(),
    "ours, one ρ for all classes": learn_then_test(per_class=False),
    "ours, 95 % certain": learn_then_test(certainty=0.95),
}
