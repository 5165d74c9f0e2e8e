"""Writing and reading the trail's files, row group by row group."""

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.workspace import Workspace

ROWS_IN_GROUP = 10_000
_ABOUT = b"fasten"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")


def folder(workspace: Workspace, kind: str) -> Path:
    """Where files of that kind lie: `machine`, `asked`, `people`, `reverted`, `withdrawn`."""
    return workspace.folder / "trail" / kind


@contextmanager
def one_writer(workspace: Workspace) -> Iterator[None]:
    """One process at a time adds to the trail; a second one waits. The lock goes with its process."""
    root = workspace.folder / "trail"
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for staged in root.glob("*/.*"):  # by a writer that died: one that lives would hold the lock
            staged.unlink()
        yield


def safe_name(key: str) -> str:
    """`key`, which is to be part of a file's name; raises `DataError` where it could not be."""
    if _NAME.fullmatch(key) is None:
        raise DataError(f"{key[:60]!r} names no run: a run key has letters, digits, - and _ only")
    return key


def write_rows(
    path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]], *, about: Mapping[str, Any] | None = None
) -> int:
    """Write the file at `path` whole or not at all; → its rows. Memory holds one row group.

    `about` goes into the file's footer (`read_about`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    written = schema.with_metadata({_ABOUT: json.dumps(about, sort_keys=True).encode()} if about else None)
    count = 0
    try:
        with pq.ParquetWriter(staged, written, compression="zstd") as writer:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema=written))
                count += len(group)
        with staged.open("rb") as file:  # the name must not outlive a power cut that the rows do not
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return count


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) >= ROWS_IN_GROUP:
            yield group
            group = []
    if group:
        yield group


def read_rows(
    path: Path, schema: pa.Schema, *, sample_id: str | None = None, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a file, or those of one sample; a column that an earlier release did not write is None.

    columns: those that are wanted; all unless given.
    """
    missing = dict.fromkeys(columns or schema.names)
    with _open(path) as file:
        there = [name for name in missing if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            if sample_id is not None and not _may_hold(file.metadata.row_group(group), sample_id):
                continue
            for batch in _batches(file, path, group, there):
                for row in batch.to_pylist():
                    if sample_id is None or row["sample_id"] == sample_id:
                        yield missing | row


def read_about(path: Path) -> dict[str, Any]:
    """What the file's footer says of all its rows."""
    with _open(path) as file:
        text = (file.schema_arrow.metadata or {}).get(_ABOUT)
    if text is None:
        raise _damaged(path)
    found: dict[str, Any] = json.loads(text)
    return found


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error


def _batches(file: pq.ParquetFile, path: Path, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=2_000, row_groups=[group], columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged: restore it from a backup; without it, the trail has a gap")


def _may_hold(group: Any, sample_id: str) -> bool:
    """Whether the row group's smallest and largest sample id leave room for this one."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == "sample_id":
            bounds = column.statistics
            return bounds is None or not bounds.has_min_max or bool(bounds.min <= sample_id <= bounds.max)
    return True
