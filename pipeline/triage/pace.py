"""How long an answer takes, by why it is asked, from the reviewers' own lead times."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import get_args

import pyarrow.compute as pc

from pipeline.records import AskedAs
from pipeline.triage.answers import Answers, review_answers

KINDS: tuple[AskedAs, ...] = get_args(AskedAs)
DEFAULT_S = 4.0
"""Seconds an answer takes where nobody has answered yet: a look and a key."""
AWAY_S = 600.0
"""Longer lead times say that somebody was at lunch, not how hard the question was."""
SHRINKAGE = 20
"""Answers for which a median of their own counts as much as the one of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Expected seconds per answer, above 0."""

    seconds: Mapping[AskedAs, float] = field(default_factory=dict)
    """Of every kind of question; what is missing takes `DEFAULT_S`."""
    confirming: float | None = None
    """Of a targeted question whose suggestion is right, so that one key does; as every targeted one unless given."""
    correcting: float | None = None
    """Of a targeted question whose suggestion is wrong; as every targeted one unless given."""

    def of(self, kind: AskedAs) -> float:
        """Seconds that one person needs for one answer of this kind."""
        return self.seconds.get(kind, DEFAULT_S)

    def of_targeted(self, probability: float) -> float:
        """The same for a targeted question whose suggestion is right with this probability."""
        confirming = self.of("targeted") if self.confirming is None else self.confirming
        correcting = self.of("targeted") if self.correcting is None else self.correcting
        return probability * confirming + (1 - probability) * correcting

    @property
    def quickest_targeted(self) -> float:
        """Seconds of the targeted question that takes least."""
        return min(self.of_targeted(0.0), self.of_targeted(1.0))


def pace_of(answers: Answers) -> Pace:
    """The pace of the reviewers' answers so far.

    The seconds of a kind are (n·its median + m·the median of all) / (n + m), with its n answers and m = `SHRINKAGE`;
    the median of all is drawn to `DEFAULT_S` in the same way, those of confirmed and corrected suggestions to the one
    of targeted questions. Medians, since lead times are skewed: a tab left open counts as one answer, not as ten
    minutes. What took no time or more than `AWAY_S` is left out.
    """
    rows = review_answers(answers, ["lead_time_s", "asked_as", "label", "suggestion"])
    rows = rows.filter((pc.field("lead_time_s") > 0) & (pc.field("lead_time_s") <= AWAY_S))
    taken = [(row["lead_time_s"], row["asked_as"], row["suggestion"], row["label"]) for row in rows.to_pylist()]
    overall = _shrunk((seconds for seconds, *_ in taken), DEFAULT_S)
    by_kind = {kind: _shrunk((seconds for seconds, of, *_ in taken if of == kind), overall) for kind in KINDS}
    suggested = [
        (seconds, label == suggestion)
        for seconds, kind, suggestion, label in taken
        if kind == "targeted" and suggestion is not None
    ]
    return Pace(
        seconds=by_kind,
        confirming=_shrunk((seconds for seconds, same in suggested if same), by_kind["targeted"]),
        correcting=_shrunk((seconds for seconds, same in suggested if not same), by_kind["targeted"]),
    )


def _shrunk(seconds: Iterable[float], prior: float) -> float:
    known = list(seconds)
    if not known:
        return prior
    return (len(known) * median(known) + SHRINKAGE * prior) / (len(known) + SHRINKAGE)
