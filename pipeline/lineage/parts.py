"""Image files that no snapshot needs any more.

Image files are shared by all snapshots and only ever added, so one goes when none of the images in it is named by any
snapshot that stays, here or in the store. Hold `snapshot.writer.pull_lock`.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.images.store import ImageStore
from pipeline.lineage.catalogue import Catalogue, Entry
from pipeline.snapshot.folder import snapshot_folder
from pipeline.snapshot_store import SnapshotStore

logger = logging.getLogger(__name__)

_NAMING = ("noisy", "clean", "undecided")
"""Tables that name images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedPart:
    """An image file that may go."""

    name: str
    local: bool
    stored: bool
    size: int
    """Bytes, in one place."""


def unused_parts(
    catalogue: Catalogue, gone: set[str], *, younger_than: timedelta, now: datetime
) -> tuple[UnusedPart, ...]:
    """The parts that nothing needs once the snapshots `gone` are removed; what is younger than that is none of them.

    Only the column of hashes is read. What the snapshots name lies in a file of SQLite's, not in memory. Raises
    `DataError` where a snapshot is damaged: nobody knows which images it needs.
    """
    if catalogue.damaged:
        raise DataError(f"{catalogue.damaged[0]} is damaged: no image is removed until it is; pull again, or remove it")
    remaining = [entry for one, entry in catalogue.entries.items() if one not in gone]
    local = {path.name: path for path in sorted((catalogue.folder / "images").glob("part-*.parquet"))}
    stored = catalogue.store.images() if catalogue.store is not None else {}
    unused = []
    with _named_by(catalogue, remaining) as named:
        for name in sorted({*local, *(one for one in stored if one.startswith("part-"))}):
            changed = [
                *([datetime.fromtimestamp(local[name].stat().st_mtime, UTC)] if name in local else []),
                *([at] if name in stored and (at := stored[name].changed) is not None else []),
            ]
            if any(now - at < younger_than for at in changed):
                continue
            with ExitStack() as opened:
                file = (
                    opened.enter_context(_open(local[name]))
                    if name in local or catalogue.store is None
                    else opened.enter_context(catalogue.store.parquet(f"images/{name}"))
                )
                if not any(_is_named(named, sha) for sha in _column(file)):
                    size = local[name].stat().st_size if name in local else stored[name].size
                    unused.append(UnusedPart(name=name, local=name in local, stored=name in stored, size=size))
    return tuple(unused)


def remove_parts(catalogue: Catalogue, parts: tuple[UnusedPart, ...]) -> None:
    """Remove image files here and in the store, and what the index here knows of them.

    Raises `DataError` where another machine has published a snapshot since the catalogue was made: it may need them.
    """
    if catalogue.store is not None and any(part.stored for part in parts):
        known = {one for one, entry in catalogue.entries.items() if entry.stored} | set(catalogue.unfinished)
        if set(catalogue.store.snapshots()) - known:
            raise DataError(f"{catalogue.store.uri} has a new snapshot since: no image is removed, run it again")
        catalogue.store.remove(f"images/{part.name}" for part in parts if part.stored)
    for part in parts:
        if part.local:
            (catalogue.folder / "images" / part.name).unlink(missing_ok=True)
    if any(part.local for part in parts):
        with ImageStore(catalogue.folder):  # forgets them
            logger.info("%d image files removed", len(parts))


@contextmanager
def _named_by(catalogue: Catalogue, entries: list[Entry]) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect("", isolation_level=None)) as named:  # the empty name: a file that goes with it
        named.execute("PRAGMA journal_mode = OFF")
        named.execute("CREATE TABLE image (sha256 TEXT PRIMARY KEY) WITHOUT ROWID")
        for entry in entries:
            for table in _NAMING:
                with _table(catalogue, entry, table) as file:
                    named.execute("BEGIN")
                    named.executemany("INSERT OR IGNORE INTO image VALUES (?)", ((sha,) for sha in _column(file)))
                    named.execute("COMMIT")
        yield named


@contextmanager
def _table(catalogue: Catalogue, entry: Entry, table: str) -> Iterator[pq.ParquetFile]:
    store: SnapshotStore | None = catalogue.store
    if entry.local or store is None:
        with _open(snapshot_folder(catalogue.folder, entry.snapshot_id) / f"{table}.parquet") as file:
            yield file
    else:
        with store.parquet(f"snapshots/{entry.snapshot_id}/{table}.parquet") as file:
            yield file


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException):
        raise DataError(f"{path} is damaged: no image is removed until it is mended; pull again") from None
    with file:
        yield file


def _column(file: pq.ParquetFile) -> Iterator[str]:
    for batch in file.iter_batches(batch_size=10_000, columns=["image_sha256"]):
        yield from (sha for sha in batch.column(0).to_pylist() if sha is not None)


def _is_named(named: sqlite3.Connection, sha256: str) -> bool:
    return named.execute("SELECT 1 FROM image WHERE sha256 = ?", (sha256,)).fetchone() is not None
