"""What given labels say of the true class: one label a sample, or every annotator's vote where they are told apart.

    one label a sample    q_i ∝ p_i·T[i, given]^γ
    votes                 q_i ∝ p_i·Π_r T_r[i, vote_r]^γ

Shapes: N samples, K classes, R annotators. T[i,j] = p(said=j | true=i); rows sum to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.annotators import annotator_transitions
from fasten_model.labelled import LabelledImages
from fasten_model.posterior import posterior, soft_count_transition, votes_log_likelihood, votes_posterior

OTHERS = "others"
"""The name by which a model keeps the T of everybody whose own is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelNoise:
    """How labels come out wrong."""

    transition: Tensor
    """T [K,K] of the one label that each sample is given: the consensus, where several have voted."""
    annotators: tuple[str, ...] = ()
    """R names, the last of them `OTHERS`; empty where annotators are not told apart."""
    matrices: Tensor | None = None
    """T_r [R,K,K], positive; None where there is no name."""

    def posterior(self, probabilities: Tensor, given: "Given", evidence: float) -> Tensor:
        """q [N,K] of samples with calibrated p [N,K]; γ = `evidence`. Where there is no vote, by the given label."""
        q = posterior(probabilities, self.transition.to(probabilities), given.labels, evidence)
        matrices = self._of(given)
        if matrices is None or given.votes is None:
            return q
        by_votes = votes_posterior(probabilities, matrices.to(probabilities), given.votes, evidence)
        return torch.where((given.votes >= 0).any(dim=1, keepdim=True), by_votes, q)

    def log_likelihood(self, given: "Given") -> Tensor:
        """log p(what was said | true=i), float64 [N,K]; every sample has a given label."""
        by_label = self.transition.double().log().t()[given.labels]
        matrices = self._of(given)
        if matrices is None or given.votes is None:
            return by_label
        by_votes = votes_log_likelihood(matrices.double(), given.votes)
        return torch.where((given.votes >= 0).any(dim=1, keepdim=True), by_votes, by_label)

    def _of(self, given: "Given") -> Tensor | None:
        """The matrices of `given.annotators`, in their order; someone unknown is one of the others."""
        if self.matrices is None or given.votes is None:
            return None
        places = {name: place for place, name in enumerate(self.annotators)}
        anybody = places.get(OTHERS, len(self.annotators))
        every = torch.cat([self.matrices, self.transition[None].to(self.matrices)])
        return every[[places.get(name, anybody) for name in given.annotators]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What N samples were called."""

    labels: Tensor
    """int64 [N]: the given label; −1 where there is none."""
    annotators: tuple[str, ...] = ()
    """R names."""
    votes: Tensor | None = None
    """int64 [N,R]: −1 where an annotator said nothing; None: known by their one label only."""

    def at(self, mask: Tensor) -> "Given":
        """The samples where `mask` [N] is true."""
        votes = None if self.votes is None else self.votes[mask]
        return Given(labels=self.labels[mask], annotators=self.annotators, votes=votes)


def given_of(noisy: LabelledImages) -> Given:
    """What the annotators said of noisy samples."""
    return Given(labels=noisy.labels, annotators=noisy.annotators, votes=noisy.votes)


def given_of_audited(clean: LabelledImages) -> Given:
    """What the annotators had said of audited samples."""
    return Given(labels=clean.given_labels, annotators=clean.annotators, votes=clean.votes)


def told_apart(noisy: LabelledImages) -> tuple[str, ...]:
    """The annotators of the noisy set, where they are at least two: of a single one the labels say it all."""
    return noisy.annotators if len(noisy.annotators) > 1 else ()


def estimate_label_noise(probabilities: Tensor, noisy: LabelledImages, audited: Sequence[LabelledImages]) -> LabelNoise:
    """T of the original labels, and every annotator's where they are told apart, from soft counts and audited pairs.

    The shared T of votes takes each vote for a sample of its own (`soft_count_transition`); each annotator's is
    counted with the posterior under it. A second round changed nothing on digits.

    Of audited samples only those drawn at random are pairs. Labels and votes of the others, which were asked about
    because the model doubted, stay among those of the bulk, with what is now known of them: left out, they would take
    the wrong ones along, and labels would look better with each round. What was asked depended on images and votes
    only, so that bulk and reviews together are not biased (Rubin, 1976), while either alone is.

    probabilities [N,K]: calibrated p of the noisy samples.
    """
    num_classes = probabilities.shape[1]
    names = told_apart(noisy)
    drawn, targeted = (_audited(audited, names, at_random=kind) for kind in (True, False))
    known = torch.nn.functional.one_hot(targeted.true, num_classes).to(probabilities)
    beliefs = torch.cat([probabilities, known])
    transition = soft_count_transition(
        beliefs,
        torch.cat([noisy.labels, targeted.given]),
        num_classes,
        pairs=torch.stack([drawn.true, drawn.given], dim=1),
    )
    if not names:
        return LabelNoise(transition=transition)

    votes = torch.cat([noisy.votes_of(names), targeted.votes])
    row, column = (votes >= 0).nonzero().unbind(dim=1)
    true_row, true_column = (drawn.votes >= 0).nonzero().unbind(dim=1)
    shared = soft_count_transition(
        beliefs[row],
        votes[row, column],
        num_classes,
        pairs=torch.stack([drawn.true[true_row], drawn.votes[true_row, true_column]], dim=1),
    )
    q = votes_posterior(beliefs.double(), shared.double().expand(len(names), -1, -1), votes)
    own = annotator_transitions(q, votes, shared, names, true_labels=drawn.true, true_votes=drawn.votes)
    return LabelNoise(
        transition=transition,
        annotators=(*names, OTHERS),
        matrices=torch.cat([own.matrices, shared[None].double()]).to(probabilities.dtype),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Audited:
    """P audited samples that had been labelled."""

    true: Tensor
    """int64 [P]"""
    given: Tensor
    """int64 [P]"""
    votes: Tensor
    """int64 [P,R]"""


def _audited(audited: Sequence[LabelledImages], names: Sequence[str], *, at_random: bool) -> _Audited:
    """Those drawn at random, or those that were not."""
    none = torch.empty(0, dtype=torch.int64)
    true, given, votes = [none], [none], [torch.empty(0, len(names), dtype=torch.int64)]
    for samples in audited:
        chosen = (samples.estimates == at_random) & (samples.given_labels >= 0)
        true.append(samples.labels[chosen])
        given.append(samples.given_labels[chosen])
        votes.append(samples.votes_of(names)[chosen])
    return _Audited(true=torch.cat(true), given=torch.cat(given), votes=torch.cat(votes))
