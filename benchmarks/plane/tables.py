"""Writing and reading a snapshot's tables, against pyarrow's own writing and reading of the same ones in Arrow."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
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
from pipeline.snapshot.folder import SCHEMAS, Snapshot, hash_file, open_snapshot
from pipeline.snapshot.writer import SnapshotWriter

BARE_WRITE, BARE_READ = "Parquet's own write, zstd", "Parquet's own read"
ARROW, HASHED, FILES = "rows to Arrow", "content hashed", "files hashed"
OURS_WRITE, OURS_READ = "snapshot written from rows", "snapshot opened and read"
_GROUP = 10_000


def measure(folder: Path, *, rounds: int, tell: Tell) -> None:
    """The tables of the snapshot in `folder`, written and read anew."""
    snapshot = open_snapshot(folder)
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in SCHEMAS}
    rows = {name: table.to_pylist() for name, table in tables.items()}
    with tempfile.TemporaryDirectory() as name:
        places = (Path(name) / str(number) for number in count())
        work: dict[str, Callable[[], object]] = {
            BARE_WRITE: lambda: _write_bare(tables, next(places)),
            ARROW: partial(_to_arrow, rows),
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


def _write_bare(tables: Mapping[str, pa.Table], folder: Path) -> None:
    folder.mkdir()
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd", row_group_size=_GROUP)


def _to_arrow(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, listed in rows.items():
        for start in range(0, len(listed), _GROUP):
            pa.Table.from_pylist(listed[start : start + _GROUP], schema=SCHEMAS[name])


def _hash(tables: Mapping[str, pa.Table]) -> None:
    for table in tables.values():
        digest = hashlib.sha256()
        for start in range(0, len(table), _GROUP):
            content_hash.add_table(digest, table.slice(start, _GROUP))


def _write(snapshot: Snapshot, rows: Mapping[str, list[dict[str, Any]]], folder: Path) -> None:
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
