"""How two snapshots differ: which samples' labels, and by whose answers.

Both are read side by side in ranges of sample ids and joined column by column, so memory holds one range of each.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.snapshot import Snapshot

Kind = Literal["relabelled", "moved", "added", "removed"]
"""What became of a sample. One that moved and has another label counts as `relabelled`."""
KINDS: tuple[Kind, ...] = ("relabelled", "moved", "added", "removed")
PLACES = ("noisy", "clean", "undecided")
_ROWS_AT_ONCE = 60_000
_ANSWER = ("annotator", "answer", "label", "ground_truth", "was_cancelled")
"""Columns of an annotation of which a change is another answer: to save it once more as it was is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class By:
    """Whose answer it was."""

    who: str
    how: str
    """`review`, `audit`, `labels`; `withdrawn` where the answer is gone, and then nobody knows since when."""
    at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What became of one sample; a place is None where the snapshot does not have it."""

    sample_id: str
    kind: Kind
    place_was: str | None
    label_was: str | None
    place_is: str | None
    label_is: str | None
    by: tuple[By, ...]
    """Who decided, where somebody has; else everybody whose answer on it differs; none where no answer does."""


@dataclass(kw_only=True, slots=True)
class Difference:
    """Everything that differs; the figures count all of it."""

    samples: Counter[str] = field(default_factory=Counter)
    """`relabelled`, `moved`, `added`, `removed`; `image`: it has another image."""
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(place before, place after) of those whose place differs and that both have."""
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    """Annotator → how many of their answers were `added`, `changed`, `withdrawn`."""
    classes_added: tuple[str, ...] = ()
    classes_removed: tuple[str, ...] = ()
    changes: list[Change] = field(default_factory=list)
    """Each sample whose label or place differs, as far as they were asked for, by kind and sample id."""

    @property
    def changed(self) -> int:
        """Samples whose label or place differs."""
        return sum(self.samples[kind] for kind in KINDS)

    @property
    def anything(self) -> bool:
        return bool(self.samples or self.answers or self.classes_added or self.classes_removed)


def compare(before: Snapshot, after: Snapshot, *, top: int | None = None) -> Difference:
    """What differs in `after`; of each kind of change the first `top` by sample id are told one by one, else all."""
    difference = Difference(
        classes_added=tuple(name for name in after.classes if name not in before.classes),
        classes_removed=tuple(name for name in before.classes if name not in after.classes),
    )
    told: dict[str, list[Change]] = {kind: [] for kind in KINDS}
    for span in _spans(before, after):
        answers = _answers(before, after, span)
        _count_answers(answers, difference)
        samples = _samples(before, after, span)
        _count_samples(samples, difference)
        for kind in KINDS:
            room = None if top is None else top - len(told[kind])
            of_kind = samples.filter(pc.equal(samples["kind"], kind)).slice(0, room)
            told[kind] += _told(of_kind, answers)
    difference.changes = [change for kind in KINDS for change in told[kind]]
    return difference


Span = tuple[str | None, str | None]
"""Sample ids above the first, up to the second."""


def _spans(*snapshots: Snapshot) -> Iterator[Span]:
    """Ranges that cover all samples, of about `_ROWS_AT_ONCE` annotations of the larger snapshot each.

    The tables go by sample id, so a range lies in few row groups.
    """
    larger = max(snapshots, key=lambda snapshot: snapshot.manifest.rows["labels"])
    start = None
    for end in [*dict.fromkeys(sorted(_ends(larger))), None]:
        yield start, end
        start = end


def _ends(snapshot: Snapshot) -> Iterator[str]:
    with pq.ParquetFile(snapshot.labels_path) as file:
        column, rows = file.schema_arrow.get_field_index("sample_id"), 0
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            rows += group.num_rows
            statistics = group.column(column).statistics
            if rows >= _ROWS_AT_ONCE and statistics is not None and statistics.has_min_max:
                yield statistics.max
                rows = 0


def _read(snapshot: Snapshot, table: str, columns: Sequence[str], span: Span) -> pa.Table:
    start, end = span
    inside = None
    for bound in (
        *([pc.field("sample_id") > start] if start is not None else []),
        *([pc.field("sample_id") <= end] if end is not None else []),
    ):
        inside = bound if inside is None else inside & bound
    return pq.read_table(snapshot.path / f"{table}.parquet", columns=list(columns), filters=inside)


def _placed(snapshot: Snapshot, span: Span) -> pa.Table:
    """The samples of all three tables: sample_id, place, label, image_sha256, and of decided ones who, how, when."""
    tables = []
    for place in PLACES:
        decided = ["auditor", "provenance", "audited_at"] if place == "clean" else []
        rows = _read(snapshot, place, ["sample_id", "label", "image_sha256", *decided], span)
        rows = rows.append_column("place", pa.repeat(place, rows.num_rows))
        tables.append(rows)
    return pa.concat_tables(tables, promote_options="default")


def _samples(before: Snapshot, after: Snapshot, span: Span) -> pa.Table:
    """Every sample of both, each column once as `…_was` and once as `…_is`, and what became of it (`kind`, or null)."""
    was, now = _placed(before, span), _placed(after, span)
    both = was.rename_columns([_suffixed(name, "_was") for name in was.column_names]).join(
        now.rename_columns([_suffixed(name, "_is") for name in now.column_names]), "sample_id", join_type="full outer"
    )
    added, removed = pc.is_null(both["place_was"]), pc.is_null(both["place_is"])
    kind = pc.case_when(
        pc.make_struct(added, removed, _differ(both, "label"), _differ(both, "place")),
        *(pa.scalar(name) for name in ("added", "removed", "relabelled", "moved")),
    )
    return both.append_column("kind", kind).sort_by("sample_id")


def _count_samples(samples: pa.Table, difference: Difference) -> None:
    counts = pc.value_counts(samples["kind"].drop_null()).to_pylist()
    difference.samples.update({each["values"]: each["counts"] for each in counts})
    stayed = samples.filter(pc.and_(pc.is_valid(samples["place_was"]), pc.is_valid(samples["place_is"])))
    if images := pc.sum(_differ(stayed, "image_sha256")).as_py():
        difference.samples["image"] += images
    moved = stayed.filter(_differ(stayed, "place")).group_by(["place_was", "place_is"]).aggregate([([], "count_all")])
    for row in moved.to_pylist():
        difference.moves[row["place_was"], row["place_is"]] += row["count_all"]


def _answers(before: Snapshot, after: Snapshot, span: Span) -> pa.Table:
    """The annotations that differ: sample_id, annotator, origin, updated_at, and what was done (`done`).

    One whose task has become another sample's is gone from the one and new on the other.
    """
    keys = ["sample_id", "project_id", "annotation_id"]
    columns = [*keys, *_ANSWER, "origin", "updated_at"]
    was, now = _read(before, "labels", columns, span), _read(after, "labels", columns, span)
    both = was.rename_columns([_suffixed(name, "_was", keys) for name in columns]).join(
        now.rename_columns([_suffixed(name, "_is", keys) for name in columns]), keys, join_type="full outer"
    )
    added, withdrawn = pc.is_null(both["origin_was"]), pc.is_null(both["origin_is"])
    changed = _differ(both, _ANSWER[0])
    for name in _ANSWER[1:]:
        changed = pc.or_(changed, _differ(both, name))
    done = pc.case_when(
        pc.make_struct(added, withdrawn, changed), *(pa.scalar(name) for name in ("added", "withdrawn", "changed"))
    )
    latest = {
        name: pc.coalesce(both[f"{name}_is"], both[f"{name}_was"]) for name in ("annotator", "origin", "updated_at")
    }
    return pa.table({"sample_id": both["sample_id"], **latest, "done": done}).filter(pc.is_valid(done))


def _count_answers(answers: pa.Table, difference: Difference) -> None:
    for row in answers.group_by(["annotator", "done"]).aggregate([([], "count_all")]).to_pylist():
        difference.answers.setdefault(row["annotator"], Counter())[row["done"]] += row["count_all"]


def _told(samples: pa.Table, answers: pa.Table) -> Iterator[Change]:
    mine = answers.filter(pc.is_in(answers["sample_id"], value_set=samples["sample_id"].combine_chunks()))
    of_sample: dict[str, list[By]] = {}
    for row in mine.to_pylist():
        gone = row["done"] == "withdrawn"
        how, at = ("withdrawn", None) if gone else (row["origin"], row["updated_at"])
        of_sample.setdefault(row["sample_id"], []).append(By(who=row["annotator"], how=how, at=at))
    for row in samples.to_pylist():
        yield Change(
            **{name: row[name] for name in ("sample_id", "kind", "place_was", "label_was", "place_is", "label_is")},
            by=_by(row, of_sample.get(row["sample_id"], [])),
        )


def _by(row: Mapping[str, Any], answers: Sequence[By]) -> tuple[By, ...]:
    if row["auditor_is"] is not None:
        return (By(who=row["auditor_is"], how=row["provenance_is"], at=row["audited_at_is"]),)
    # A join keeps no order. Whose answers are gone come first, by name, then the others by time.
    return tuple(sorted(dict.fromkeys(answers), key=lambda by: (by.at.timestamp() if by.at else 0, by.who, by.how)))


def _differ(both: pa.Table, name: str) -> pa.ChunkedArray:
    was, now = both[f"{name}_was"], both[f"{name}_is"]
    return pc.coalesce(pc.not_equal(was, now), pc.xor(pc.is_null(was), pc.is_null(now)))


def _suffixed(name: str, suffix: str, keys: Sequence[str] = ("sample_id",)) -> str:
    return name if name in keys else f"{name}{suffix}"
