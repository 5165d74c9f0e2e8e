"""Writing and reading a snapshot's tables, against pyarrow's own writing and reading of the same ones in Arrow."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.interleaved import times_in_turns
from benchmarks.plane.figure import Figure
from benchmarks.plane.pulling import Tell
from pipeline.snapshot import content_hash
from pipeline.snapshot.columns import Row
from pipeline.snapshot.folder import SCHEMAS, Snapshot, hash_file, open_snapshot
from pipeline.snapshot.writer import SnapshotWriter

BARE_WRITE, BARE_READ = "Parquet's own write, zstd", "Parquet's own read"
ARROW, FROM_ROWS = "rows to Arrow", "rows to Arrow and written, by pyarrow alone"
HASHED, FILES = "content hashed", "files hashed"
OURS_WRITE, OURS_READ = "snapshot written from rows", "snapshot opened and read"
_GROUP = 10_000


def measure(folder: Path, *, rounds: int, tell: Tell) -> None:
    """The tables of the snapshot in `folder`, written and read anew."""
    snapshot = open_snapshot(folder)
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in SCHEMAS}
    rows = {name: _as_pulled(name, table) for name, table in tables.items()}
    named = {name: [_named(name, row) for row in listed] for name, listed in rows.items()}
    with tempfile.TemporaryDirectory() as name:
        places = (Path(name) / str(number) for number in count())
        work: dict[str, Callable[[], object]] = {
            BARE_WRITE: lambda: _write_bare(tables, next(places)),
            ARROW: partial(_to_arrow, named),
            FROM_ROWS: lambda: _write_rows(named, next(places)),
            HASHED: partial(_hash, tables),
            OURS_WRITE: lambda: _write(snapshot, rows, next(places)),
            BARE_READ: partial(_read, folder),
            FILES: partial(_hash_files, folder),
            OURS_READ: partial(_open_and_read, folder),
        }
        times = times_in_turns(work, rounds=rounds, device=torch.device("cpu"), wall=True)
    total = sum(map(len, rows.values()))
    for what, seconds in times.items():
        tell(Figure(part="tables", server="", size=total, what=what, seconds=seconds))


def _as_pulled(name: str, table: pa.Table) -> list[Row]:
    """Its rows as a pull gives them to the writer: times in UTC as Python's own, labels as tuples."""
    listed = [{key: _in_utc(value) for key, value in row.items()} for row in table.to_pylist()]
    return [tuple(row.values()) for row in listed] if name == "labels" else [*listed]


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _named(name: str, row: Row) -> Mapping[str, Any]:
    """A row as pyarrow takes it."""
    return dict(zip(SCHEMAS[name].names, row, strict=True)) if isinstance(row, tuple) else row


def _write_bare(tables: Mapping[str, pa.Table], folder: Path) -> None:
    folder.mkdir()
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd", row_group_size=_GROUP)


def _to_arrow(rows: Mapping[str, list[Mapping[str, Any]]]) -> None:
    for name, listed in rows.items():
        for _ in _groups(name, listed):
            pass


def _write_rows(rows: Mapping[str, list[Mapping[str, Any]]], folder: Path) -> None:
    folder.mkdir()
    for name, listed in rows.items():
        with pq.ParquetWriter(folder / f"{name}.parquet", SCHEMAS[name], compression="zstd") as file:
            for group in _groups(name, listed):
                file.write_table(group)


def _groups(name: str, rows: list[Mapping[str, Any]]) -> Iterator[pa.Table]:
    for start in range(0, len(rows), _GROUP):
        yield pa.Table.from_pylist(rows[start : start + _GROUP], schema=SCHEMAS[name])


def _hash(tables: Mapping[str, pa.Table]) -> None:
    for table in tables.values():
        digest = hashlib.sha256()
        for start in range(0, len(table), _GROUP):
            content_hash.add_table(digest, table.slice(start, _GROUP))


def _write(snapshot: Snapshot, rows: Mapping[str, list[Row]], folder: Path) -> None:
    folder.mkdir()
    with SnapshotWriter(folder / "staged", snapshot.classes) as writer:
        for name, listed in rows.items():
            for row in listed:
                writer.add(name, row)
        written, is_new = writer.finish(folder, rejected={}, projects=(), states=())
    assert is_new
    assert written.snapshot_id == snapshot.snapshot_id


def _read(folder: Path) -> None:
    for name in SCHEMAS:
        pq.read_table(folder / f"{name}.parquet")


def _hash_files(folder: Path) -> None:
    for name in SCHEMAS:
        hash_file(folder / f"{name}.parquet")


def _open_and_read(folder: Path) -> None:
    open_snapshot(folder)
    _read(folder)
