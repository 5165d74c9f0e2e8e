"""What people can still be asked: so many answers, so many minutes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.records import AskedAs
from pipeline.triage.pace import Pace


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What may still be added; both bind."""

    reviews: int
    """Answers; a question takes as many as people are to answer it."""
    minutes: float | None = None
    """Of people's work, everybody's together; unbounded where None."""


class Room:
    """What is left of a budget while a batch is filled. A question takes its seconds from each of `overlap` people."""

    def __init__(self, budget: Budget, pace: Pace, overlap: int) -> None:
        self.pace = pace
        self.spent = 0.0
        """Seconds of everybody's work that the questions so far make."""
        self._questions = max(0, budget.reviews) // overlap
        self._seconds = math.inf if budget.minutes is None else max(0.0, budget.minutes) * 60
        self._overlap = overlap

    def take(self, seconds: float) -> bool:
        """Whether one more question that takes a person so long fits; its room is taken then."""
        if not self._most(seconds):
            return False
        self._questions -= 1
        self.spent += seconds * self._overlap
        return True

    def most(self, shares: Mapping[AskedAs, float]) -> int:
        """How many questions fit if these shares are of these kinds and the rest is targeted.

        Depends on no score, and so neither does the number that is drawn at random.
        """
        rest = max(0.0, 1 - sum(shares.values()))
        mixed = sum(share * self.pace.of(kind) for kind, share in shares.items()) + rest * self.pace.of("targeted")
        return self._most(mixed)

    def _most(self, seconds: float) -> int:
        left, cost = self._seconds - self.spent, seconds * self._overlap
        if left >= self._questions * cost:
            return self._questions
        return max(0, math.floor(left / cost + 1e-9))
