"""Writes a snapshot row by row into a staging folder, then gives it its name in one step.

The snapshot's id is taken from the rows as they pass, so they must come in an order that depends on nothing but
themselves (`pipeline.snapshot.staging` sorts them).
"""

import fcntl
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.records import ProjectState
from pipeline.schema import SCHEMA_VERSION
from pipeline.snapshot.columns import Row, to_arrow
from pipeline.snapshot.content_hash import add_table
from pipeline.snapshot.folder import SCHEMAS, Manifest, ProjectSource, Snapshot, hash_file, place, read_latest

logger = logging.getLogger(__name__)

_ROWS_IN_GROUP = 10_000
"""Rows are hashed group by group: another number gives other ids."""
_LETTERS_IN_GROUP = 32 * 2**20
"""Of image addresses: a group ends there, since each of them may be a whole image (`data:`)."""
_ID_DIGITS = 16
_REPEATED: Mapping[str, list[str]] = {
    "labels": [
        "project_id", "annotator", "answer", "label", "ground_truth", "was_cancelled", "lead_time_s", "origin",
        "asked_as", "suggestion", "asked_by_run",
    ],
    "noisy": ["label", "votes.list.element.annotator", "votes.list.element.label"],
}  # fmt: skip
"""Columns whose values come again and again, by table: a dictionary of those that do not costs time and space."""


@contextmanager
def pull_lock(data_dir: Path) -> Iterator[None]:
    """Nobody else pulls into `data_dir`, or removes snapshots from it. The operating system lets go of the lock when
    its process dies.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".pull.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another pull is writing to %s; waiting for it to end", data_dir)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive_pull(data_dir: Path) -> Iterator[Path]:
    """Hold `data_dir` for one pull and give it an empty staging folder, removed at the end whatever happens.

    A second pull waits here for the first. What is found in the staging place then was left by a pull that is no more.
    """
    staging = data_dir / ".staging"
    with pull_lock(data_dir):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


class SnapshotWriter:
    """One snapshot in the making: `add` rows to its tables, then `finish`.

    Memory holds one row group of each table. Leaving the `with` block without `finish` leaves no snapshot.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        folder.mkdir()
        self._folder = folder
        self._classes = tuple(classes)
        self._files = ExitStack()
        self._writers = {
            name: self._files.enter_context(
                pq.ParquetWriter(
                    folder / f"{name}.parquet", schema, compression="zstd", use_dictionary=_REPEATED.get(name, True)
                )
            )
            for name, schema in SCHEMAS.items()
        }
        self._pending: dict[str, list[Row]] = {name: [] for name in SCHEMAS}
        self._letters = Counter[str]()
        self._rows = Counter[str](dict.fromkeys(SCHEMAS, 0))
        self._digests = {name: hashlib.sha256() for name in SCHEMAS}
        self._per_class = {kind: Counter[str]() for kind in ("noisy", "audit", "review")}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, table: str, row: Row) -> None:
        """Append one row to the table of that name, of which all are given in the same way."""
        pending = self._pending[table]
        pending.append(row)
        if isinstance(row, Mapping):
            self._letters[table] += len(row.get("image_url") or "")
        if len(pending) >= _ROWS_IN_GROUP or self._letters[table] >= _LETTERS_IN_GROUP:
            self._flush(table)

    def finish(
        self,
        data_dir: Path,
        *,
        rejected: Mapping[str, int],
        projects: Sequence[ProjectSource],
        states: Sequence[ProjectState],
        cursors: Mapping[str, str] | None = None,
    ) -> tuple[Snapshot, bool]:
        """Name the snapshot and put it in its place; → (snapshot, whether `data_dir` did not have it before)."""
        for table in SCHEMAS:
            self._flush(table)
        self._files.close()
        latest = read_latest(data_dir)
        manifest = Manifest(
            snapshot_id=self._snapshot_id(),
            schema_version=SCHEMA_VERSION,
            parent=latest.snapshot_id if latest else None,
            created_at=datetime.now(UTC),
            classes=self._classes,
            rows=dict(self._rows),
            files={file.name: hash_file(file) for file in sorted(self._folder.glob("*.parquet"))},
            noisy_per_class=self._by_class("noisy"),
            audit_per_class=self._by_class("audit"),
            review_per_class=self._by_class("review"),
            rejected=dict(sorted(rejected.items())),
            projects=tuple(projects),
            states=tuple(states),
            cursors=dict(cursors or {}),
        )
        return place(self._folder, manifest, data_dir)

    def _by_class(self, kind: str) -> dict[str, int]:
        return {name: self._per_class[kind][name] for name in self._classes}

    def _flush(self, table: str) -> None:
        if not self._pending[table]:
            return
        rows = to_arrow(self._pending[table], SCHEMAS[table])
        self._pending[table].clear()
        self._letters[table] = 0
        self._rows[table] += len(rows)
        if table in ("noisy", "clean"):
            self._count(table, rows)
        add_table(self._digests[table], rows)
        self._writers[table].write_table(rows)

    def _count(self, table: str, rows: pa.Table) -> None:
        kinds = ("noisy",) if table == "noisy" else ("audit", "review")
        for kind in kinds:
            found = rows if table == "noisy" else rows.filter(pc.equal(rows["provenance"], kind))
            for each in found["label"].value_counts().to_pylist():
                self._per_class[kind][each["values"]] += each["counts"]

    def _snapshot_id(self) -> str:
        content = {name: digest.hexdigest() for name, digest in self._digests.items()}
        head = {"schema_version": SCHEMA_VERSION, "classes": self._classes, "tables": content}
        return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()[:_ID_DIGITS]
