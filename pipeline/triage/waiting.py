"""What a newer model, and people elsewhere, make of the questions that wait in the queue.

| kind | withdrawn where | changed where |
|---|---|---|
| targeted | the model doubts the label no longer, or people have decided it elsewhere | it says something else |
| audit, check | people have decided the sample elsewhere | its image has another address |
| tie-break | the dispute is settled | people have said more |
| recheck | the decision that it is about was changed | never: it was asked for by hand |

And each where its sample is gone from the labels project. What was drawn at random is never withdrawn for what a model
thinks. For audits that is plain: an estimate from those that every later model still doubts is one of doubtful labels.
A check is the same for a promise. It was drawn among the labels that were changed without asking, and those that a
newer model would not change any more are the likeliest mistakes among them: without these, what is left would say that
the promise was kept better than it was.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.records import UNSHOWN, AskedAs, Mode, ReviewTask, Withdrawal
from pipeline.triage.candidates import Candidate, Dispute
from pipeline.triage.pace import Pace
from pipeline.triage.plan import question_about
from pipeline.triage.targeted import NEGLIGIBLE, worth
from pipeline.triage.tie_breaks import tie_break


class Waiting(Protocol):
    """One question that waits and that nobody has touched (`pipeline.label_studio.Asked`)."""

    @property
    def push_key(self) -> str: ...
    @property
    def sample_id(self) -> str: ...
    @property
    def asked_as(self) -> AskedAs | None: ...
    @property
    def current_label(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """What people have made of the samples."""

    labels: Mapping[str, str | None]
    """Decided sample → its label; None where its image is unusable."""
    known: Collection[str]
    """Samples that somebody has said anything of."""


def revisit(
    waiting: Iterable[Waiting],
    *,
    candidates: Iterable[Candidate],
    disputes: Iterable[Dispute],
    decisions: Decisions,
    mode: Mode,
    pace: Pace,
    references: Mapping[str, Sequence[str]],
    run_key: str,
) -> tuple[list[ReviewTask], list[Withdrawal]]:
    """(the waiting questions as they would be asked today, those that need not be asked any more).

    A question that is in neither list stays as it is. One in the first may be the same as it was: whoever changes it
    compares what people would see.
    """
    asked = list(waiting)
    about = {each.sample_id for each in asked}
    scored = {each.sample_id: each for each in candidates if each.sample_id in about}
    disputed = {each.sample_id: each for each in disputes if each.sample_id in about}
    today: list[ReviewTask] = []
    ended: list[Withdrawal] = []
    for one in asked:
        why = _why_ended(one, scored, disputed, decisions, mode)
        if why:
            ended.append(Withdrawal(push_key=one.push_key, sample_id=one.sample_id, why=why))
        elif one.asked_as == "tie_break":
            today.append(replace(tie_break(disputed[one.sample_id], one.push_key, run_key), asked_as="tie_break"))
        elif one.asked_as in ("targeted", *UNSHOWN) and one.sample_id in scored:
            candidate = scored[one.sample_id]
            asking = question_about(
                one.asked_as, candidate, one.push_key, mode=mode, references=references, run_key=run_key
            )
            today.append(replace(asking, rank=1 - worth(candidate, mode, pace)))
    return today, ended


def _why_ended(
    one: Waiting,
    scored: Mapping[str, Candidate],
    disputed: Mapping[str, Dispute],
    decisions: Decisions,
    mode: Mode,
) -> str:
    """Why nobody need answer it any more; empty where somebody should."""
    if one.asked_as is None:
        return ""
    if one.sample_id not in decisions.known:
        return "its sample is gone from the labels project"
    if one.asked_as == "recheck":
        stands = decisions.labels.get(one.sample_id) == one.current_label
        return "" if stands else "the decision that it is about was changed"
    if one.sample_id in decisions.labels:
        return "people have decided it"
    if one.asked_as == "tie_break" and one.sample_id not in disputed:
        return "nobody disagrees about it any more"
    candidate = scored.get(one.sample_id) if one.asked_as == "targeted" else None
    if candidate is None or (candidate.decision != "keep" and candidate.gain(mode) >= NEGLIGIBLE):
        return ""
    return f"the model no longer doubts “{candidate.given_label}”"
