"""Triage: what people are asked next, in which order, and why.

`compose` fills one batch of questions: what people disagree on, a slice drawn at random before the model is looked at,
in mode `auto` a few of the labels that the machine changes, a floor for every class, and for the rest whatever sets
most labels right per second of somebody's attention.
"""

from collections import Counter
from collections.abc import Iterable

from fasten_model.scoring import DECISIONS
from pipeline.triage.budget import Budget
from pipeline.triage.candidates import Candidate, Dispute, candidates_of, disputes_of, stand
from pipeline.triage.pace import Pace, pace_of
from pipeline.triage.plan import Plan, compose
from pipeline.triage.reasons import reason
from pipeline.triage.rechecks import contradicted, recheck_tasks
from pipeline.triage.waiting import Decisions, Waiting, revisit

__all__ = [
    "Budget",
    "Candidate",
    "Decisions",
    "Dispute",
    "Pace",
    "Plan",
    "Waiting",
    "candidates_of",
    "compose",
    "contradicted",
    "count_decisions",
    "disputes_of",
    "pace_of",
    "reason",
    "recheck_tasks",
    "revisit",
    "stand",
]


def count_decisions(decisions: Iterable[str]) -> dict[str, int]:
    """How many samples were kept, relabeled and left to people."""
    counted = Counter(decisions)
    return {name: counted[name] for name in DECISIONS}
