"""Rules that say which labels a model may change by itself, all given the same evidence.

Shapes: N bulk samples, P held-out pairs, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model import relabel
from fasten_model.calibrate import fit_evidence, fit_temperature
from fasten_model.posterior import posterior, soft_count_transition
from fasten_model.relabel import NEVER, Suggestions, choose_rho, suggestions

TARGET = 0.95
_PRIOR_PAIRS = 20
"""What q's own expectation is worth where counts are joined with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One trained model and what it says of samples whose truth is known, before any temperature."""

    bulk_logits: Tensor
    """[N,K]: of the samples whose given labels were trained on."""
    bulk_given: Tensor
    bulk_true: Tensor
    """int64 [N]; no rule sees it."""
    reserve_logits: Tensor
    """[M,K]: of samples that training never saw; held-out pairs are drawn from these."""
    reserve_given: Tensor
    reserve_true: Tensor
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
"""ρ for max q, or the new labels int64 [N]."""


def gather(judged: Judged, held: Tensor, *, fit_gamma: bool) -> Evidence:
    """What `fasten_model.fitting` makes of the model with the reserve's rows `held` as held-out samples."""
    logits, given, true = judged.reserve_logits[held], judged.reserve_given[held], judged.reserve_true[held]
    temperature = fit_temperature(logits, true)
    bulk, p = (torch.softmax(z.double() / temperature, dim=1) for z in (judged.bulk_logits, logits))
    num_classes = bulk.shape[1]

    def transition(pairs: Tensor) -> Tensor:
        return soft_count_transition(bulk, judged.bulk_given, num_classes, pairs=pairs)

    without = transition(judged.taught)
    every = transition(torch.cat([judged.taught, torch.stack([true, given], dim=1)]))
    gamma = fit_evidence(p, without, given, true) if fit_gamma else 1.0
    return Evidence(
        p=bulk,
        given=judged.bulk_given,
        true=judged.bulk_true,
        bulk=suggestions(posterior(bulk, every, judged.bulk_given, gamma), judged.bulk_given, judged.bulk_true),
        pairs=suggestions(posterior(p, without, given, gamma), given, true),
    )


def outcome(decision: float | Tensor, evidence: Evidence) -> tuple[int, int]:
    """(labels changed, of these right)."""
    if isinstance(decision, Tensor):
        changed = decision != evidence.given
        return int(changed.sum()), int((decision == evidence.true)[changed].sum())
    changed = evidence.bulk.confidence >= decision
    return int(changed.sum()), int(evidence.bulk.right[changed].sum())


def paper(evidence: Evidence) -> Tensor:
    """argmax p where max p ≥ 0.8 (Kye et al. 2022, eq. 6)."""
    confidence, best = evidence.p.max(dim=1)
    return torch.where(confidence >= 0.8, best, evidence.given)


def fixed(rho: float) -> Rule:
    """A constant."""
    return lambda _: rho


def expectation(evidence: Evidence) -> float:
    """The lowest ρ at which the mean of max q over the relabels is the target: q is taken at its word."""
    confidence = evidence.bulk.confidence.sort(descending=True).values
    mean = confidence.cumsum(dim=0) / torch.arange(1, len(confidence) + 1)
    fits = (mean >= TARGET).nonzero().flatten()
    return float(confidence[fits[-1]]) if len(fits) else NEVER


def counts(*, prior: float) -> Rule:
    """The lowest ρ at which the 10 % quantile of Beta(1 + right, 1 + wrong) reaches the target.

    prior > 0: q's own expectation takes the place of the flat prior, worth so many pairs; and five pairs are wanted.
    """

    def rule(evidence: Evidence) -> float:
        confidence, best = evidence.bulk.confidence, NEVER
        if len(confidence) == 0:
            return best
        for rho in confidence.quantile(torch.linspace(0, 1, 100).double()).tolist():
            right = evidence.pairs.right[evidence.pairs.confidence >= rho]
            mean = float(confidence[confidence >= rho].mean())
            a, b = (prior * mean, prior * (1 - mean)) if prior else (1.0, 1.0)
            enough = len(right) >= relabel.LEAST_PAIRS or not prior
            lowest = _beta_quantile(a + int(right.sum()), b + int((~right).sum()), 0.1)
            if enough and lowest >= TARGET:
                best = min(best, rho)
        return best

    return rule


def _beta_quantile(a: float, b: float, share: float) -> float:
    """Of Beta(a, b), on a grid that is fine near 1."""
    log_odds = torch.linspace(-6, 14, 4001, dtype=torch.float64)
    log_density = a * torch.nn.functional.logsigmoid(log_odds) + b * torch.nn.functional.logsigmoid(-log_odds)
    reached = torch.softmax(log_density, dim=0).cumsum(dim=0)
    return float(torch.sigmoid(log_odds[(reached < share).sum().clamp(max=4000)]))


def ours(evidence: Evidence) -> float:
    """`fasten_model.relabel.choose_rho`."""
    return choose_rho(evidence.bulk, evidence.pairs, TARGET).rho


def ours_with(*, doubt: float = relabel.DOUBT, least_pairs: int = relabel.LEAST_PAIRS) -> Rule:
    """The same with other constants."""
    return lambda evidence: choose_rho(evidence.bulk, evidence.pairs, TARGET, doubt=doubt, least_pairs=least_pairs).rho


RULES: dict[str, tuple[Rule, bool]] = {
    "max p ≥ 0.8 (paper)": (paper, True),
    "max q ≥ 0.8": (fixed(0.8), True),
    "max q ≥ 0.95": (fixed(0.95), True),
    "q's own expectation": (expectation, True),
    "pairs alone: Beta(1, 1)": (counts(prior=0), True),
    f"pairs, and q as {_PRIOR_PAIRS} more": (counts(prior=_PRIOR_PAIRS), True),
    "**recalibrated q (ours)**": (ours, True),
    "ours, γ = 1": (ours, False),
    "ours, doubt 20 %": (ours_with(doubt=0.2), True),
    "ours, no least pairs": (ours_with(least_pairs=0), True),
}
"""Name → (rule, whether γ is fitted)."""
