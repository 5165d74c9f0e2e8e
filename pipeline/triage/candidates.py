"""What a question can be about: a scored label, or a sample that people could not agree on."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import pyarrow as pa

from fasten_model.scoring import Decision
from pipeline.errors import DataError
from pipeline.records import Mode
from pipeline.triage.answers import OPINIONS, Answers, drawn_at_random, review_answers

MOST_PEOPLE = 5
MOST_ANSWERS = 10
"""After so many people, or answers, about one sample it stays undecided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One scored label that nobody has decided."""

    sample_id: str
    image_url: str
    image_sha256: str = ""
    """Identifies the image's bytes; empty where they are not known."""
    given_label: str
    model_label: str
    """What the reviewer is offered: the most probable class of q."""
    model_label_probability: float
    """q of `model_label`, 0–1."""
    confidence: float
    error_probability: float
    """That the given label is wrong: 1 − q of it."""
    decision: Decision
    priority: float
    model_version: str

    def gain(self, mode: Mode) -> float:
        """Probability that asking sets a label right: that the one handed out otherwise is wrong, 0–1.

        In mode `suggest` that is the given one until a person decides; in mode `auto`, of a relabel, the model's.
        """
        if mode == "auto" and self.decision == "relabel":
            return 1 - self.model_label_probability
        return self.error_probability


def stand(candidates: Iterable[Candidate], standing: Mapping[str, str]) -> list[Candidate]:
    """The candidates; those whose label is changed already (`standing`, sample → label) as the model would have it are
    relabels. What the model suggests no longer stays as it is scored: there an answer may set the change right.
    """
    return [
        replace(each, decision="relabel") if standing.get(each.sample_id) == each.model_label else each
        for each in candidates
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """A candidate that nobody was ever asked about."""

    candidate: Candidate
    push_key: str
    """Of its first question."""
    row: int
    """Its place among the candidates, and so its row of the features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispute:
    """One sample that people have looked at without deciding it."""

    sample_id: str
    image_url: str
    given_label: str
    """What the annotators said; empty where they said nothing."""
    answers: tuple[tuple[str, str, str | None], ...]
    """Each person's latest: who, `records.AnswerKind`, and the class where it is one."""
    asked_as_audit: bool = False
    """Whether it was drawn at random: what settles it may then estimate, too."""
    answered: int = 0
    """Answers that reviewers have given, which may be more than there are people: a tie-break can come to one of the
    two who disagreed, whose second answer replaces the first."""

    @property
    def people(self) -> int:
        """How many have answered."""
        return len({who for who, _, _ in self.answers})

    @property
    def doubt(self) -> float:
        """Share of those with an opinion who contradict the given label; one half where nobody has one."""
        opinions = [label for _, answer, label in self.answers if answer != "not_sure"]
        return sum(label != self.given_label for label in opinions) / len(opinions) if opinions else 0.5

    @property
    def can_be_settled(self) -> bool:
        """Whether one more person may settle it: people disagree, or one person alone was not sure.

        Two who are not sure are an answer: the image does not say. So is one who was asked again and again, because
        nobody else takes the queue.
        """
        if self.answered >= MOST_ANSWERS:
            return False
        if all(answer == "not_sure" for _, answer, _ in self.answers):
            return self.people == 1
        return self.people < MOST_PEOPLE


def candidates_of(scores: pa.Table, noisy: pa.Table) -> list[Candidate]:
    """The scored samples, in the order of `scores` (`schema.SCORES`), with their images from `noisy` (`schema.NOISY`).

    Raises `DataError` where a scored sample is not in `noisy`: the scores are another snapshot's then.
    """
    images = {
        sample: (url, sha256)
        for sample, url, sha256 in zip(
            *(noisy[name].to_pylist() for name in ("sample_id", "image_url", "image_sha256")), strict=True
        )
    }
    found = []
    columns = [field.name for field in fields(Candidate) if field.name in scores.column_names]
    for batch in scores.select(columns).to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            image = images.get(row["sample_id"])
            if image is None:
                raise DataError(f"sample {row['sample_id']!r} has scores but is not in the snapshot: score it again")
            found.append(Candidate(image_url=image[0], image_sha256=image[1], **row))
    return found


def disputes_of(undecided: pa.Table, answers: Answers) -> list[Dispute]:
    """Disputed and not-sure samples of `undecided` (`schema.UNDECIDED`), and what was asked about them so far.

    Unusable ones are decided.
    """
    rows = [row for row in undecided.to_pylist() if row["state"] != "unusable"]
    stuck = {row["sample_id"] for row in rows}
    given, drawn = Counter[str](), drawn_at_random(answers) if stuck else set()
    asked = review_answers(answers, ["sample_id", "answer"])
    for sample, answer in zip(*(column.to_pylist() for column in asked.columns), strict=True):
        if sample in stuck:
            given[sample] += answer in OPINIONS
    return [
        Dispute(
            sample_id=row["sample_id"],
            image_url=row["image_url"],
            given_label=row["label"] or "",
            answers=tuple((each["annotator"], each["answer"], each["label"]) for each in row["answers"]),
            asked_as_audit=row["sample_id"] in drawn,
            answered=given[row["sample_id"]],
        )
        for row in rows
    ]
