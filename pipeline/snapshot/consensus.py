"""From many annotations of one sample to one label, with every vote kept."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.records import AnswerKind, Origin


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


def votes(answers: Iterable[Answer]) -> tuple[Vote, ...]:
    """Each annotator's latest answer, where it is a label; ordered by annotator.

    The latest answer speaks whatever its kind: somebody who labelled a sample and skipped it afterwards has taken the
    label back, and somebody whose latest class is unknown has no vote.
    """
    latest: dict[str, Answer] = {}
    for answer in answers:
        if answer.annotator not in latest or latest[answer.annotator].recency < answer.recency:
            latest[answer.annotator] = answer
    return tuple(
        Vote(annotator=name, label=answer.label, updated_at=answer.updated_at, annotation_id=answer.annotation_id)
        for name, answer in sorted(latest.items())
        if answer.kind == "class" and answer.label is not None
    )


def consensus(cast: Sequence[Vote]) -> str | None:
    """The label with most votes; among labels with as many, the one voted for most recently. None without a vote."""
    if not cast:
        return None
    counts = Counter(vote.label for vote in cast)
    most = max(counts.values())
    return max((vote for vote in cast if counts[vote.label] == most), key=lambda vote: vote.recency).label


def decision(answers: Iterable[Answer]) -> Answer | None:
    """The one answer of an auditor or a reviewer that stands for a sample; None where nobody has decided.

    The newest audit answer stands, even against a later review: reviews are asked where the model doubts, so letting
    them amend audits would amend only what the model disagrees with, and every estimate made from the audits would
    lean the model's way. An audit that is not sure lets a review speak. Skipped, empty and unknown answers decide
    nothing. `answers` are those of the audit and review projects and the labels project's ground truth.
    """
    deciding = sorted(
        (answer for answer in answers if answer.kind in ("class", "unusable", "not_sure")),
        key=lambda answer: answer.recency,
    )
    audits = [answer for answer in deciding if answer.origin != "review"]
    reviews = [answer for answer in deciding if answer.origin == "review"]
    if audits and audits[-1].kind != "not_sure":
        return audits[-1]
    if reviews:
        return reviews[-1]
    return audits[-1] if audits else None
