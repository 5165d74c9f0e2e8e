"""What a trained model makes of labels, learnt from the audited samples that are held out from it: T, γ and ρ.

Shapes: N bulk samples, C audited ones, P pairs among them (held out, and with their bulk label), K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.calibrate import fit_evidence_of
from fasten_model.label_noise import LabelNoise, estimate_label_noise, given_of, given_of_audited, told_apart
from fasten_model.labelled import LabelledImages
from fasten_model.relabel import RhoChoice, choose_rho, judge_rho, suggestions
from fasten_model.stacking import Weights, fit_weights, stacked


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How given labels are to be read."""

    noise: LabelNoise
    """T of the original labels."""
    evidence: float
    """γ"""
    choice: RhoChoice
    """ρ, and what to expect of relabels at it."""
    weights: Weights | None
    """Of what is known of samples that were trained on; None where their visits are not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is known of samples that trained with the label they came with: the bulk, and held-out pairs like it."""

    log_p: Tensor
    """[N,K]: of the bulk, log p by the trained network as it is, with no temperature."""
    visits: Tensor
    """[N,K]: of the bulk, the mean of log p over its visits."""
    held_log_p: Tensor
    """[C,K]: log p of the audited samples, each by the model that it is held out from."""
    held_visits: Tensor
    """[C,K]: their visits; only those of the held-out pairs are looked at."""
    trained: Tensor
    """bool [C]: which audited samples train with what annotators said, where they are held out (`trains_along`)."""


def judge_labels(
    bulk: Tensor,
    bulk_of_each: Sequence[Tensor],
    noisy: LabelledImages,
    held: Tensor,
    clean: LabelledImages,
    fold: Tensor,
    *,
    target_precision: float,
    certainty: float,
    rho: float | None,
    seen: Seen | None = None,
) -> Judged:
    """From calibrated p of the bulk [N,K] and of the audited samples [C,K], each by the model that does not know it.

    T knows every pair. The held-out pairs of a fold are judged under a T that does not know them, or they would vouch
    for themselves: it has not counted them, and it is estimated with the p of the model that was not told their truth.
    bulk_of_each: that of each model, [N,K]; `bulk` is that of all together. fold int64 [C]: of each audited sample
    (`fasten_model.holding_out.folds_of`); p of those that are in none is not looked at. rho: fixes ρ.
    seen: where it is known, labels are judged by it (`fasten_model.stacking`), and pairs that did not train are none;
    γ is then for labels that were not trained on, as near as pairs that were can tell.
    """
    every = estimate_label_noise(bulk, noisy, [clean])
    said = given_of_audited(clean)
    known = said.labels >= 0 if seen is None else (said.labels >= 0) & seen.trained
    pairs = [(fold == number) & known for number in range(max(1, int(fold.max()) + 1))]
    without = [
        estimate_label_noise(p, noisy, [clean.at(fold != number)])
        for number, p in zip(range(len(pairs)), bulk_of_each, strict=False)  # the last folds may be empty
    ]
    p, true, given = (torch.cat([values[mask] for mask in pairs]) for values in (held, clean.labels, said.labels))
    likelihood = [noise.log_likelihood(said.at(mask)) for noise, mask in zip(without, pairs, strict=True)]
    evidence = fit_evidence_of(p, torch.cat(likelihood), true)
    weights = None
    if seen is None:
        q = torch.cat(
            [noise.posterior(held[mask], said.at(mask), evidence) for noise, mask in zip(without, pairs, strict=True)]
        )
        of_bulk = every.posterior(bulk, given_of(noisy), evidence)
    else:
        log_p, visits = (torch.cat([each[mask] for mask in pairs]) for each in (seen.held_log_p, seen.held_visits))
        weights = fit_weights(log_p, visits, torch.cat(likelihood), true)
        q = stacked(log_p, visits, torch.cat(likelihood), weights)
        of_bulk = stacked(seen.log_p, seen.visits, every.log_likelihood(given_of(noisy)), weights)
    since = changed_since(clean, bulk.shape[1])
    tried = suggestions(q, given, true, taken=torch.cat([since[mask] for mask in pairs]))
    doubted = suggestions(of_bulk, noisy.labels)
    if rho is not None:
        choice = judge_rho(rho, doubted, tried, certainty=certainty)
    else:
        choice = choose_rho(doubted, tried, target_precision, certainty=certainty, num_classes=bulk.shape[1])
    return Judged(noise=every, evidence=evidence, choice=choice, weights=weights)


def trains_along(clean: LabelledImages, noisy: LabelledImages) -> Tensor:
    """bool [C]: the audited samples that can train as the bulk does: they had been labelled, and where all of the bulk
    was by annotators who are told apart, by one of these."""
    names = told_apart(noisy)
    labelled = clean.given_labels >= 0
    return labelled & ~clean.unvoted(names) if names and not noisy.unvoted(names).any() else labelled


def changed_since(clean: LabelledImages, num_classes: int) -> Tensor:
    """int64 [C,K]: into which classes reviews have changed bulk labels that the draw of each sample still could meet.

    Those of the same round and of later ones: what was asked before a draw was not drawn from.
    """
    changed = ~clean.estimates & (clean.given_labels >= 0) & (clean.labels != clean.given_labels)
    rounds = torch.zeros(len(clean), dtype=torch.int64) if clean.asked_in is None else clean.asked_in
    counts = torch.zeros(len(clean), num_classes, dtype=torch.int64)
    for label in range(num_classes):
        asked = rounds[changed & (clean.labels == label)].sort().values
        counts[:, label] = len(asked) - torch.searchsorted(asked, rounds)
    return counts
