"""Each reviewer against what others have decided, and against other reviewers."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.people.records import Mixup, Reviewer, Share
from pipeline.records import NAMELESS
from pipeline.report import wilson_interval
from pipeline.snapshot import Snapshot
from pipeline.snapshot.consensus import Answer, considered, decide, latest
from pipeline.triage.pace import AWAY_S

_COLUMNS = (
    "sample_id", "annotation_id", "annotator", "answer", "label", "updated_at", "origin", "ground_truth", "asked_as",
    "was_cancelled", "lead_time_s",
)  # fmt: skip


@dataclass(slots=True)
class _Tally:
    """What one reviewer's answers come to so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    compared: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(what others decided, what this one said) → samples."""
    overlaps: int = 0
    agreements: int = 0


def reviewers_of(snapshot: Snapshot) -> tuple[Reviewer, ...]:
    """Everybody who has answered in the review project, the busiest first.

    The truth of a sample is what *other* people's answers come to (`consensus.decide`), nobody vouches for themselves;
    and only samples that were drawn at random are compared: those that were asked because the model doubted are the
    hard ones, and would make every reviewer look worse than they are. Answers whose user was deleted are other people's
    to everybody, and have no row: each has a name of its own.
    """
    deciding = (pc.field("origin") != "labels") | pc.field("ground_truth")
    rows = pq.read_table(snapshot.labels_path, columns=list(_COLUMNS), filters=deciding)
    at_random = pq.read_table(snapshot.clean_path, columns=["sample_id"], filters=pc.field("provenance") == "audit")
    audited = set(at_random["sample_id"].to_pylist())
    tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
    for sample_id, answers in _by_sample(rows):
        _count(answers, tallies, compare=sample_id in audited)
    for row in rows.filter((pc.field("origin") == "review") & ~pc.field("was_cancelled")).to_pylist():
        if row["annotator"] in tallies and 0 < (row["lead_time_s"] or 0) <= AWAY_S:
            tallies[row["annotator"]].seconds.append(row["lead_time_s"])
    found = [_reviewer(name, tally) for name, tally in tallies.items() if not name.startswith(NAMELESS)]
    return tuple(sorted(found, key=lambda each: (-each.classes - each.unusable - each.not_sure, each.name)))


def _by_sample(rows: pa.Table) -> Iterable[tuple[str, list[Answer]]]:
    samples: defaultdict[str, list[Answer]] = defaultdict(list)
    for row in rows.drop_columns(["was_cancelled", "lead_time_s"]).to_pylist():
        samples[row.pop("sample_id")].append(_answer(row))
    return samples.items()


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(kind=row.pop("answer"), **row)


def _count(answers: list[Answer], tallies: defaultdict[str, _Tally], *, compare: bool) -> None:
    """Enter what reviewers have said of one sample."""
    reviews = latest(answer for answer in considered(answers) if answer.origin == "review")
    for own in reviews:
        tally = tallies[own.annotator]
        tally.kinds[own.kind] += 1
        if own.kind != "class" or own.label is None:
            continue
        others = [review for review in reviews if review.annotator != own.annotator and review.kind == "class"]
        tally.overlaps += len(others)
        tally.agreements += sum(review.label == own.label for review in others)
        truth = decide(answer for answer in answers if answer.annotator != own.annotator)
        if compare and truth.state == "class" and truth.label is not None:
            tally.compared[truth.label, own.label] += 1


def _reviewer(name: str, tally: _Tally) -> Reviewer:
    compared = tally.compared.total()
    right = sum(count for (truth, said), count in tally.compared.items() if truth == said)
    of: Counter[str] = Counter()
    for (truth, _), count in tally.compared.items():
        of[truth] += count
    mixups = [
        Mixup(truth=truth, said=said, count=count, of=of[truth])
        for (truth, said), count in tally.compared.items()
        if truth != said
    ]
    low, high = wilson_interval(right, compared)
    return Reviewer(
        name=name,
        classes=tally.kinds["class"],
        not_sure=tally.kinds["not_sure"],
        unusable=tally.kinds["unusable"],
        median_seconds=median(tally.seconds) if tally.seconds else None,
        compared=compared,
        right=right,
        accuracy=Share(value=right / compared, low=low, high=high) if compared else None,
        overlaps=tally.overlaps,
        agreements=tally.agreements,
        mixups=tuple(sorted(mixups, key=lambda each: (-each.count, each.truth, each.said))),
    )
