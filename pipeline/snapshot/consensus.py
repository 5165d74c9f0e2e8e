"""From many annotations of one sample to one label, with every vote kept."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.records import AnswerKind, AskedAs, Origin

Standing = Literal["class", "unusable", "not_sure", "disputed"]
"""What auditors and reviewers have made of a sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one annotation says of one sample: an `Annotation` that knows which project it was made in."""

    annotation_id: int
    annotator: str
    kind: AnswerKind
    label: str | None
    updated_at: datetime
    origin: Origin
    ground_truth: bool = False
    asked_as: AskedAs | None = None
    """Why it was asked, of answers to our questions in the review project."""
    led: bool = False
    """Whether a person has made an answer theirs that the machine had written: the model chose and suggested it."""

    @property
    def is_draft(self) -> bool:
        """Whether it was begun and never submitted."""
        return self.annotation_id < 0

    @property
    def recency(self) -> tuple[datetime, int]:
        """Sorts answers from oldest to newest; the id decides between two of the same instant."""
        return self.updated_at, self.annotation_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """One annotator's standing label for one sample."""

    annotator: str
    label: str
    updated_at: datetime
    annotation_id: int

    @property
    def recency(self) -> tuple[datetime, int]:
        return self.updated_at, self.annotation_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What auditors and reviewers have made of one sample."""

    state: Standing | None
    """None where nobody has said anything that decides."""
    label: str | None = None
    """The class; None in every other state."""
    answer: Answer | None = None
    """The newest of the answers that the state rests on; of a dispute, the newest of all."""
    drawn_at_random: bool = False
    """Whether the sample was asked about without looking at what the model says of it: then, and only then, its label
    may estimate something."""


def latest(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    """Each person's latest answer, ordered by person."""
    found: dict[str, Answer] = {}
    for answer in answers:
        if answer.annotator not in found or found[answer.annotator].recency < answer.recency:
            found[answer.annotator] = answer
    return tuple(answer for _, answer in sorted(found.items()))


def votes(answers: Iterable[Answer]) -> tuple[Vote, ...]:
    """Each annotator's latest answer, where it is a label; ordered by annotator.

    The latest answer speaks whatever its kind: somebody who labelled a sample and skipped it afterwards has taken the
    label back, and somebody whose latest class is unknown has no vote.
    """
    return tuple(
        Vote(
            annotator=answer.annotator,
            label=answer.label,
            updated_at=answer.updated_at,
            annotation_id=answer.annotation_id,
        )
        for answer in latest(answers)
        if answer.kind == "class" and answer.label is not None
    )


def consensus(cast: Sequence[Vote]) -> str | None:
    """The label with most votes; among labels with as many, the one voted for most recently. None without a vote."""
    if len(cast) < 2:  # nearly all samples of most projects
        return cast[0].label if cast else None
    counts = Counter(vote.label for vote in cast)
    most = max(counts.values())
    return max((vote for vote in cast if counts[vote.label] == most), key=lambda vote: vote.recency).label


def considered(answers: Iterable[Answer]) -> list[Answer]:
    """Those of the answers of auditors and reviewers that say something: skipped, empty and unknown ones do not."""
    return [answer for answer in answers if answer.kind in ("class", "unusable", "not_sure")]


def decide(answers: Iterable[Answer]) -> Decided:
    """What the answers of the audit and review projects, and the labels project's ground truth, come to.

    Audits come first. The newest stands, even against later reviews: reviews are asked where the model doubts, so
    letting them amend audits would amend only what the model disagrees with, and every estimate made from the audits
    would lean the model's way. An auditor who is not sure leaves it to the others.

    Then every reviewer has one vote, their latest: a class, or "unusable image". More votes for one of them than for
    any other decide; as many for another are a dispute. "Not sure" is no vote, and where nobody voted, the state.

    A sample of the random slice stays drawn at random whoever decides it in the end: to leave out those that needed a
    second person would leave out the hard ones.
    """
    said = considered(answers)
    audits = latest(answer for answer in said if answer.origin != "review")
    reviews = latest(answer for answer in said if answer.origin == "review")
    at_random = any((answer.origin != "review" and not answer.led) or answer.asked_as == "audit" for answer in said)
    standing = [answer for answer in audits if answer.kind != "not_sure"]
    if standing:
        return _stands(max(standing, key=lambda answer: answer.recency), at_random)
    cast = [answer for answer in reviews if answer.kind != "not_sure"]
    if not cast:
        if not said:
            return Decided(state=None)
        newest = max((*audits, *reviews), key=lambda answer: answer.recency)
        return Decided(state="not_sure", answer=newest, drawn_at_random=at_random)
    counts = Counter((answer.kind, answer.label) for answer in cast)
    most = max(counts.values())
    leading = [choice for choice, count in counts.items() if count == most]
    if len(leading) > 1:
        newest = max(reviews, key=lambda answer: answer.recency)
        return Decided(state="disputed", answer=newest, drawn_at_random=at_random)
    agreeing = [answer for answer in cast if (answer.kind, answer.label) == leading[0]]
    return _stands(max(agreeing, key=lambda answer: answer.recency), at_random)


def _stands(answer: Answer, at_random: bool) -> Decided:
    state: Standing = "unusable" if answer.kind == "unusable" else "class"
    return Decided(state=state, label=answer.label, answer=answer, drawn_at_random=at_random)
