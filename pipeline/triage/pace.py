"""How long an answer takes, by why it is asked, from the reviewers' own lead times."""

from collections.abc import Mapping
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
"""Answers for which a kind's own median counts as much as everybody's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Expected seconds per answer."""

    seconds: Mapping[AskedAs, float] = field(default_factory=dict)
    """Of every kind of question; what is missing takes `DEFAULT_S`."""

    def of(self, kind: AskedAs) -> float:
        """Seconds that one person needs for one answer of this kind; above 0."""
        return self.seconds.get(kind, DEFAULT_S)


def pace_of(answers: Answers) -> Pace:
    """The pace of the reviewers' answers so far.

    A kind's seconds are (n·its median + m·everybody's median) / (n + m), with its n answers and m = `SHRINKAGE`;
    everybody's median is drawn to `DEFAULT_S` in the same way. Medians, since lead times are skewed: a tab left open
    counts as one answer, not as ten minutes. What took no time or more than `AWAY_S` is left out.
    """
    rows = review_answers(answers, ["lead_time_s", "asked_as"])
    rows = rows.filter((pc.field("lead_time_s") > 0) & (pc.field("lead_time_s") <= AWAY_S))
    taken: dict[AskedAs, list[float]] = {kind: [] for kind in KINDS}
    everything: list[float] = rows["lead_time_s"].to_pylist()
    for kind, seconds in zip(rows["asked_as"].to_pylist(), everything, strict=True):
        if kind in taken:
            taken[kind].append(seconds)
    overall = _shrunk(everything, DEFAULT_S)
    return Pace(seconds={kind: _shrunk(own, overall) for kind, own in taken.items()})


def _shrunk(seconds: list[float], prior: float) -> float:
    if not seconds:
        return prior
    return (len(seconds) * median(seconds) + SHRINKAGE * prior) / (len(seconds) + SHRINKAGE)
