"""T̂ while training goes on: one clean batch's (the reference), or decayed sums, joined with what audits say.

Shapes: B noisy batch, C clean batch, K classes, R annotators. T[i,j] = p(ȳ=j | y=i); rows sum to 1.
"""

import torch
from torch import Tensor

from fasten_model.train.method import Method
from fasten_model.train.process import Process
from fasten_model.transition import (
    batch_transition,
    bulk_counts,
    clean_counts,
    dirichlet_transition,
    identity_transition,
    log_evidence,
    smooth_transition,
    symmetric_transition,
)

_FIRST_AGREEMENT = 0.8
"""Share of right labels that is assumed until anything is known."""


class TransitionEstimate:
    """T̂ of every annotator, [R,K,K], from the counts that each step adds.

    pairs [R,K,K]: audited samples drawn at random by (true label, what annotator r had said); zeros where unknown.
    steps_per_pass: steps in which the set that is counted (clean or bulk) is seen once. samples_per_pass: its size.
    """

    def __init__(
        self, method: Method, pairs: Tensor, *, steps_per_pass: float, samples_per_pass: float, process: Process
    ) -> None:
        self._method = method
        self._process = process
        self._pairs = pairs * method.pair_weight if method.pairs else torch.zeros_like(pairs)
        self._pooled_pairs = self._pairs.sum(dim=0)
        self._decay = max(0.0, 1 - 1 / (method.memory * max(1.0, steps_per_pass)))
        num_classes = pairs.shape[1]
        if method.estimator == "clean_batch":
            self.counts = identity_transition(num_classes, device=pairs.device)[None]
        else:
            # As many samples as the sums will remember, so that this guess fades as they fill.
            remembered = samples_per_pass * method.memory / num_classes
            self.counts = self._first(num_classes).expand_as(pairs) * remembered

    def add_clean(self, noisy_logits: Tensor, clean_labels: Tensor, weights: Tensor) -> None:
        """What the noisy head says of a clean batch: logits [C,K], y int64 [C], weights [C]."""
        sums = self._process.sum(clean_counts(noisy_logits, clean_labels, weights))
        if self._method.estimator == "clean_batch":
            self.counts = batch_transition(self.counts[0], sums)[None]
        elif self._method.estimator == "clean_decayed":
            self.counts = self._decay * self.counts + sums

    def add_bulk(self, probabilities: Tensor, votes: Tensor) -> None:
        """What the clean head believes of a noisy batch, p [B,K], and what annotators said of it, int64 [B,R]."""
        if self._method.counts_bulk:
            self.counts = self._decay * self.counts + self._process.sum(bulk_counts(probabilities, votes))

    def shared(self) -> Tensor:
        """T̂ over all annotators, [K,K]."""
        if self._method.estimator == "clean_batch":
            estimate = self.counts[0]
        else:
            pooled = self.counts.sum(dim=0)
            estimate = dirichlet_transition(pooled, symmetric_transition(pooled), self._method.prior_strength)
        if not self._method.pairs:
            return estimate
        return dirichlet_transition(self._pooled_pairs, estimate, self._method.pooled_strength)

    def each(self) -> Tensor:
        """T̂ of every annotator, [R,K,K], positive."""
        shared = self.shared()
        if len(self._pairs) == 1:
            return smooth_transition(shared, self._method.smoothing)[None]
        own = dirichlet_transition(self.counts, shared, self._method.annotator_strength)
        if self._method.pairs:
            own = dirichlet_transition(self._pairs, own, self._method.annotator_strength)
        return smooth_transition(own, self._method.smoothing)

    def log_evidence(self, votes: Tensor) -> Tensor:
        """log p(votes | y = i), [B,K], of votes int64 [B,R]."""
        return log_evidence(self.each(), votes)

    def _first(self, num_classes: int) -> Tensor:
        """The guess to start from: symmetric noise, as strong as the pairs say, joined with them; [K,K]."""
        pairs = self._pooled_pairs
        known = identity_transition(num_classes, device=pairs.device) * _FIRST_AGREEMENT
        known = known + (1 - _FIRST_AGREEMENT) / num_classes
        prior = symmetric_transition(pairs) if float(pairs.sum()) > 0 else known
        return dirichlet_transition(pairs, prior, max(1.0, self._method.prior_strength))
