"""What people can still be asked: so many questions, so many minutes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.records import AskedAs
from pipeline.triage.pace import Pace


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What may still be added; both bind."""

    reviews: int
    """Questions."""
    minutes: float | None = None
    """Of people's work, everybody's together; unbounded where None."""


class Room:
    """What is left of a budget while a batch is filled. A question costs its pace once for each of `overlap` people."""

    def __init__(self, budget: Budget, pace: Pace, overlap: int) -> None:
        self.questions = max(0, budget.reviews)
        self.seconds = math.inf if budget.minutes is None else max(0.0, budget.minutes) * 60
        self._pace = pace
        self._overlap = overlap

    def cost(self, kind: AskedAs) -> float:
        """Seconds of work that one question of this kind makes."""
        return self._pace.of(kind) * self._overlap

    def places(self, kind: AskedAs, wanted: int | None = None) -> int:
        """How many questions of this kind fit, at most `wanted`."""
        fit = _most(self.questions, self.seconds, self.cost(kind))
        return fit if wanted is None else min(fit, max(0, wanted))

    def places_of_mix(self, shares: Mapping[AskedAs, float]) -> int:
        """How many questions fit if these shares are of these kinds and the rest is targeted.

        Depends on no score, and so neither does the number that is drawn at random.
        """
        rest = max(0.0, 1 - sum(shares.values()))
        mixed = sum(share * self.cost(kind) for kind, share in shares.items()) + rest * self.cost("targeted")
        return _most(self.questions, self.seconds, mixed)

    def take(self, kind: AskedAs, count: int = 1) -> None:
        """`count` questions of this kind are in the batch."""
        self.questions -= count
        self.seconds -= count * self.cost(kind)


def _most(questions: int, seconds: float, cost: float) -> int:
    if seconds >= questions * cost:
        return questions
    return max(0, math.floor(seconds / cost + 1e-9))
