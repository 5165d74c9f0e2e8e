"""What people have decided so far in one simulation."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.review_loop.pool import Pool
from fasten_model.labelled import LabelledImages
from pipeline.records import AskedAs

OPEN = -1
"""In `Ledger.decided`: nobody has been asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One sample that a person is asked about."""

    sample: int
    """Its place in the pool."""
    asked_as: AskedAs


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The decisions after some rounds. Shapes: N samples of the pool."""

    decided: Tensor
    """int64 [N]: the label that a person gave, or OPEN."""
    at_random: Tensor
    """bool [N]: decided, and drawn at random before any model was looked at."""
    claimed_random: Tensor
    """bool [N]: decided, and taken for such a sample, rightly or not."""
    asked_in: Tensor
    """int64 [N]: the round that asked, from 1; 0 before the first."""

    @classmethod
    def start(cls, pool: Pool) -> "Ledger":
        """The audited samples are decided, rightly."""
        audited = torch.arange(len(pool)) < pool.audited
        return cls(
            decided=torch.where(audited, pool.truth, OPEN), at_random=audited, claimed_random=audited,
            asked_in=torch.zeros(len(pool), dtype=torch.int64),
        )  # fmt: skip

    @property
    def open(self) -> Tensor:
        """bool [N]: nobody has decided."""
        return self.decided == OPEN

    def answered(self, pool: Pool, questions: Iterable[Question], *, all_claim: bool) -> "Ledger":
        """With the answers to `questions`. all_claim: each of them counts as drawn at random, whatever it was asked as.

        A sample that is decided, or asked about twice, is an error of the policy: ValueError.
        """
        decided, at_random, claimed = self.decided.clone(), self.at_random.clone(), self.claimed_random.clone()
        asked_in, number = self.asked_in.clone(), int(self.asked_in.max()) + 1
        for question in questions:
            place = question.sample
            if decided[place] != OPEN:
                raise ValueError(f"sample {place} is decided already: a policy must not ask again")
            decided[place] = pool.answers[place]
            at_random[place] = question.asked_as == "audit"
            claimed[place] = all_claim or question.asked_as == "audit"
            asked_in[place] = number
        return Ledger(decided=decided, at_random=at_random, claimed_random=claimed, asked_in=asked_in)

    def noisy(self, pool: Pool) -> LabelledImages:
        """What is open, with the given labels."""
        return self._part(pool, self.open, pool.given)

    def clean(self, pool: Pool) -> LabelledImages:
        """What is decided; `estimates` is what is claimed to be random."""
        return self._part(pool, ~self.open, self.decided)

    def _part(self, pool: Pool, rows: Tensor, labels: Tensor) -> LabelledImages:
        return LabelledImages.from_tensors(
            pool.images[rows],
            labels[rows],
            sample_ids=[pool.sample_ids[place] for place in rows.nonzero().flatten().tolist()],
            given_labels=pool.given[rows],
            estimates=self.claimed_random[rows],
            asked_in=self.asked_in[rows],
            annotators=pool.annotators,
            votes=None if pool.votes is None else pool.votes[rows],
        )
