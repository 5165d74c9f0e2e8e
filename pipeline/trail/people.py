"""What people said, and when they changed their mind or took it back.

A snapshot holds what stands in Label Studio when it is pulled; somebody who deletes an annotation there deletes it from
every later snapshot. Here each state of each annotation is kept: the file of a snapshot holds what differs from the
state before it.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from heapq import merge
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.records import AnswerKind
from pipeline.schema import LABELS
from pipeline.snapshot import Snapshot, latest_snapshot, open_snapshot
from pipeline.trail.files import folder, one_writer, read_rows, write_rows
from pipeline.trail.schema import PEOPLE
from pipeline.workspace import Workspace, write_whole

_CONTENT = (
    "sample_id", "annotator", "origin", "answer", "label", "ground_truth", "was_cancelled", "lead_time_s", "updated_at",
)  # fmt: skip
"""Columns of which a change is a new state."""
_TABLE = """
CREATE TABLE answer (
    project_id INT, annotation_id INT, digest BLOB, stands INT, place INT, seen INT,
    PRIMARY KEY (project_id, annotation_id)
) WITHOUT ROWID
"""


def keep_people(workspace: Workspace, at: datetime) -> int:
    """Keep what people have said up to the latest snapshot; → how many rows that is.

    Call it before each pull and after it. Before, so that an answer which the last pull saw is kept although its
    process died and the answer was deleted since.
    """
    latest = latest_snapshot(workspace.folder)
    return 0 if latest is None else append_people(workspace, latest, at)


def append_people(workspace: Workspace, snapshot: Snapshot, at: datetime) -> int:
    """Keep what differs between the trail's state and `snapshot`; → how many rows that is.

    Snapshots between the one that was kept last and this one are caught up with first, in their order. What is known
    is looked up in a file of SQLite's, not in memory.
    """
    with one_writer(workspace):
        return sum(_append(workspace, one, at) for one in _unread(workspace, snapshot))


def unread_snapshots(workspace: Workspace) -> list[str]:
    """Ids of the snapshots that `keep_people` has yet to read, the oldest first. Raises as `latest_snapshot`."""
    latest = latest_snapshot(workspace.folder)
    return [] if latest is None else [one.snapshot_id for one in _unread(workspace, latest)]


def _unread(workspace: Workspace, snapshot: Snapshot) -> list[Snapshot]:
    last = _kept(workspace)
    if snapshot.snapshot_id == last:
        return []
    missed = _between(last, snapshot) if last is not None or not _files(workspace) else []
    return [*missed, snapshot]


def _kept(workspace: Workspace) -> str | None:
    """The snapshot whose answers the trail holds as they are."""
    try:
        return str(json.loads(_kept_path(workspace).read_bytes()))
    except (OSError, ValueError):  # unknown: the next snapshot is compared with all that is kept
        return None


def _kept_path(workspace: Workspace) -> Path:
    return folder(workspace, "people") / "kept.json"


def _between(last: str | None, snapshot: Snapshot) -> list[Snapshot]:
    """The ancestors of `snapshot` since `last` (None: all), the oldest first; none where `last` is no ancestor."""
    line: list[Snapshot] = []
    passed = {snapshot.snapshot_id}
    parent = snapshot.manifest.parent
    while parent is not None and parent != last and parent not in passed:
        passed.add(parent)
        try:
            ancestor = open_snapshot(snapshot.path.parent / parent)
        except DataError:  # removed, or of another release
            break
        line.append(ancestor)
        parent = ancestor.manifest.parent
    return line[::-1] if parent == last or last is None else []


def _append(workspace: Workspace, snapshot: Snapshot, at: datetime) -> int:
    files = _files(workspace)
    number = int(files[-1].name.partition("-")[0]) + 1 if files else 0
    path = folder(workspace, "people") / f"{number:06d}-{snapshot.snapshot_id}.parquet"
    with closing(sqlite3.connect("")) as known:  # the empty name: a file that goes with the connection
        known.execute("PRAGMA journal_mode = OFF")
        known.execute(_TABLE)
        known.executemany(
            "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?, 0)",
            (
                (row["project_id"], row["annotation_id"], _digest(row), row["withdrawn_at"] is None, place)
                for place, row in enumerate(_states(workspace))
            ),
        )
        seen = {"seen_in": snapshot.snapshot_id, "seen_at": at}
        rows = chain(
            (row | seen | {"withdrawn_at": None} for row in _new(known, snapshot)),
            (row | seen | {"withdrawn_at": at} for row in _gone(known, workspace)),
        )
        first = next(rows, None)
        count = 0 if first is None else write_rows(path, PEOPLE, chain([first], rows))
    write_whole(_kept_path(workspace), json.dumps(snapshot.snapshot_id).encode())
    return count


def _new(known: sqlite3.Connection, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Annotations of the snapshot that the trail does not have as they are; all of them are marked as seen."""
    for row in _with_given_label(snapshot):
        key = (row["project_id"], row["annotation_id"])
        digest = _digest(row)
        found = known.execute(
            "SELECT digest, stands FROM answer WHERE project_id = ? AND annotation_id = ?", key
        ).fetchone()
        known.execute("UPDATE answer SET seen = 1 WHERE project_id = ? AND annotation_id = ?", key)
        if found != (digest, 1):
            yield row | {"outcome": outcome(row)}


def _gone(known: sqlite3.Connection, workspace: Workspace) -> Iterator[dict[str, Any]]:
    """The last state of every annotation that stood and was not seen."""
    places = known.execute("SELECT place FROM answer WHERE stands AND NOT seen ORDER BY place")
    wanted = next(places, None)
    if wanted is None:
        return
    for place, row in enumerate(people_rows(workspace)):
        if wanted is not None and place == wanted[0]:
            yield row
            wanted = next(places, None)


def outcome(row: Mapping[str, Any]) -> str:
    """What an answer made of the given label, in words.

    `voted`: one of the annotators' answers that the given label is made of. `kept the given label`, `accepted the
    suggestion`, `chose another class`; `labelled` where nobody had. Else what was said instead of a class.
    """
    if row["answer"] != "class":
        return in_words(row["answer"])
    if row["origin"] == "labels" and not row["ground_truth"]:
        return "voted"
    if row["given_label"] is None:
        return "labelled"
    if row["label"] == row["given_label"]:
        return "kept the given label"
    return "accepted the suggestion" if row["label"] == row["suggestion"] else "chose another class"


def in_words(answer: AnswerKind) -> str:
    """An answer that is no class, as people say it."""
    return "several classes" if answer == "several" else answer.replace("_", " ")


def people_rows(workspace: Workspace, sample_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Every state of every annotation, of all samples or of one, in the order in which they were seen."""
    for path in _files(workspace):
        yield from read_rows(path, PEOPLE, sample_id=sample_id)


def _states(workspace: Workspace) -> Iterator[dict[str, Any]]:
    """The same rows, as far as they are compared."""
    for path in _files(workspace):
        yield from read_rows(path, PEOPLE, columns=("project_id", "annotation_id", "withdrawn_at", *_CONTENT))


def _files(workspace: Workspace) -> list[Path]:
    return sorted(folder(workspace, "people").glob("[0-9]*-*.parquet"))


def _with_given_label(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """The rows of `labels.parquet`, each with the annotators' consensus on its sample; all tables go by sample id."""
    given = merge(
        _pairs(snapshot.noisy_path, "label"),
        _pairs(snapshot.clean_path, "given_label"),
        _pairs(snapshot.undecided_path, "label"),
        key=itemgetter(0),
    )
    at, label = "", None
    for row in _rows(snapshot.labels_path, LABELS.names):
        while at < row["sample_id"]:
            at, label = next(given, ("\U0010ffff", None))
        yield row | {"given_label": label if at == row["sample_id"] else None}


def _pairs(path: Path, column: str) -> Iterator[tuple[str, str | None]]:
    return ((row["sample_id"], row[column]) for row in _rows(path, ["sample_id", column]))


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2_000, columns=columns):
            yield from batch.to_pylist()


def _digest(row: Mapping[str, Any]) -> bytes:
    return hashlib.blake2b(repr([row[name] for name in _CONTENT]).encode(), digest_size=16).digest()
