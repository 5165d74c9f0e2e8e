"""The images of all snapshots: each kept once, in append-only Parquet parts, and found by hash.

    root/images/part-<name>.parquet    the bytes; never changed, never removed
    root/images/index.sqlite           hash → part and row group, URL → hash

The parts are the truth. The index is written after the part it describes; whatever a killed pull left out of it is
read back from the parts when the store is opened, so the worst that is lost is which URL gave an image.
"""

import hashlib
import logging
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.images.check import VerifiedImage
from pipeline.schema import IMAGES, check_columns

logger = logging.getLogger(__name__)

_GROUP_BYTES = 8 * 2**20
_GROUP_ROWS = 2_000
_PART_BYTES = 64 * 2**20
_PART_ROWS = 20_000
_TABLES = """
CREATE TABLE IF NOT EXISTS part (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image (sha256 TEXT PRIMARY KEY, part TEXT NOT NULL, row_group INT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS url (digest BLOB PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID;
"""


class ImageStore:
    """Images by hash, and by the URL they were fetched from.

    One writer at a time (`snapshot.writer.exclusive_pull`), any number of readers. Memory holds one part in the making
    (at most 64 MiB) or one row group being read. Raises `DataError` where the folder is damaged.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "images"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pending: dict[str, VerifiedImage] = {}
        self._pending_bytes = 0
        self._pending_urls: list[tuple[bytes, str]] = []
        # Threads fetch, but one thread alone talks to the store.
        self._index = sqlite3.connect(self._folder / "index.sqlite", timeout=60)
        try:
            self._index.executescript(_TABLES)
            self._catch_up()
        except sqlite3.DatabaseError as error:
            self._index.close()
            raise DataError(
                f"{self._folder / 'index.sqlite'} is damaged ({error}); remove it: it is made again from the parts"
            ) from error
        except BaseException:
            self._index.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was fetched before an error is good all the same: keep it, and it need not be fetched again.
        try:
            self.flush()
        finally:
            self.close()

    def close(self) -> None:
        self._index.close()

    def known(self, url: str) -> str | None:
        """The hash of the image that `url` gave once; None where it was never fetched."""
        row = self._index.execute("SELECT sha256 FROM url WHERE digest = ?", (_digest(url),)).fetchone()
        return None if row is None else str(row[0])

    def add(self, url: str, image: VerifiedImage) -> None:
        """Keep `image` as what `url` gives; written with the part it falls into, at the latest by `flush`."""
        self._pending_urls.append((_digest(url), image.sha256))
        if image.sha256 in self._pending or self._has(image.sha256):
            return
        self._pending[image.sha256] = image
        self._pending_bytes += len(image.data)
        if self._pending_bytes >= _PART_BYTES or len(self._pending) >= _PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending: the part first, then the index in one transaction."""
        if not self._pending_urls:
            return
        part, rows = self._write_part() if self._pending else (None, [])
        with self._index:
            if part is not None:
                self._index.execute("INSERT OR IGNORE INTO part VALUES (?)", (part,))
            self._index.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?)", rows)
            self._index.executemany("INSERT OR REPLACE INTO url VALUES (?, ?)", self._pending_urls)
        self._pending.clear()
        self._pending_urls.clear()
        self._pending_bytes = 0

    def iter_images(self, hashes: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(hash, bytes) of every image asked for, each once, in the order they are stored in.

        Raises `DataError` where one is not there, or a part is damaged.
        """
        self.flush()
        # A connection of its own, committing at once: a long read must hold no lock that a writer waits for. The wanted
        # hashes lie in SQLite's temporary store, on disk where they are many.
        with closing(sqlite3.connect(self._folder / "index.sqlite", timeout=60, isolation_level=None)) as index:
            index.execute("CREATE TEMP TABLE wanted (sha256 TEXT PRIMARY KEY) WITHOUT ROWID")
            index.execute("BEGIN")
            index.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((sha,) for sha in hashes))
            index.execute("COMMIT")
            missing = index.execute(
                "SELECT sha256, COUNT(*) OVER () FROM wanted WHERE sha256 NOT IN (SELECT sha256 FROM image) LIMIT 1"
            ).fetchone()
            if missing:
                raise DataError(f"{missing[1]} images are not in {self._folder}, the first is {missing[0]}; pull again")
            index.execute(
                "CREATE TEMP TABLE place AS SELECT part, row_group, sha256 FROM wanted JOIN image USING (sha256)"
            )
            index.execute("CREATE INDEX temp.by_place ON place (part, row_group)")
            groups = index.execute("SELECT DISTINCT part, row_group FROM place ORDER BY part, row_group").fetchall()
            for part, in_part in groupby(groups, key=lambda place: str(place[0])):
                with self._open_part(part) as file:
                    for _, row_group in in_part:
                        found = index.execute(
                            "SELECT sha256 FROM place WHERE part = ? AND row_group = ?", (part, row_group)
                        )
                        yield from self._read_group(file, part, row_group, {str(sha) for (sha,) in found})

    def longer_sides(self) -> list[int]:
        """The longer side of each image of the first part, in pixels."""
        first = self.parts()[:1]
        sizes = [pq.read_table(part, columns=["width", "height"]).to_pylist() for part in first]
        return [max(size["width"], size["height"]) for part in sizes for size in part]

    def parts(self) -> tuple[Path, ...]:
        """The files that hold the bytes, oldest first."""
        return tuple(sorted(self._folder.glob("part-*.parquet")))

    def _has(self, sha256: str) -> bool:
        return self._index.execute("SELECT 1 FROM image WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def _write_part(self) -> tuple[str, list[tuple[str, str, int]]]:
        # Numbered so that a listing is in order; with a random end so that no two writers ever meet in a name.
        name = f"part-{len(self.parts()):06d}-{uuid.uuid4().hex[:8]}.parquet"
        staged = self._folder / f".{name}"
        places: list[tuple[str, str, int]] = []
        try:
            # The bytes are compressed already: only the other columns gain from zstd.
            compression = {"image_sha256": "zstd", "width": "zstd", "height": "zstd"}
            with pq.ParquetWriter(staged, IMAGES, compression=compression, use_dictionary=False) as writer:
                for row_group, images in enumerate(_groups(list(self._pending.values()))):
                    writer.write_table(pa.Table.from_pylist([_row(image) for image in images], schema=IMAGES))
                    places += [(image.sha256, name, row_group) for image in images]
            staged.replace(self._folder / name)
        finally:
            staged.unlink(missing_ok=True)
        return name, places

    def _catch_up(self) -> None:
        """Enter parts that the index does not know, and forget those that are gone."""
        present = {part.name for part in self.parts()}
        entered = {str(name) for (name,) in self._index.execute("SELECT name FROM part")}
        if present == entered:
            return
        with self._index:
            for name in sorted(entered - present):
                logger.warning("%s is gone; its images will be fetched again", self._folder / name)
                self._index.execute(
                    "DELETE FROM url WHERE sha256 IN (SELECT sha256 FROM image WHERE part = ?)", (name,)
                )
                self._index.execute("DELETE FROM image WHERE part = ?", (name,))
                self._index.execute("DELETE FROM part WHERE name = ?", (name,))
            for name in sorted(present - entered):
                check_columns(self._folder / name, IMAGES)
                with self._open_part(name) as file:
                    for row_group in range(file.num_row_groups):
                        hashes = file.read_row_group(row_group, columns=["image_sha256"])["image_sha256"].to_pylist()
                        rows = [(sha, name, row_group) for sha in hashes]
                        self._index.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?)", rows)
                self._index.execute("INSERT OR IGNORE INTO part VALUES (?)", (name,))

    def _open_part(self, name: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._folder / name)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self._folder / name} is damaged; remove it and pull again") from error

    def _read_group(
        self, file: pq.ParquetFile, part: str, row_group: int, wanted: set[str]
    ) -> Iterator[tuple[str, bytes]]:
        try:
            table = file.read_row_group(row_group, columns=["image_sha256", "image"])
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self._folder / part} is damaged; remove it and pull again") from error
        for sha, image in zip(table["image_sha256"], table["image"], strict=True):
            if sha.as_py() in wanted:
                yield sha.as_py(), image["bytes"].as_py()


def _groups(images: Sequence[VerifiedImage]) -> Iterator[list[VerifiedImage]]:
    group: list[VerifiedImage] = []
    size = 0
    for image in images:
        group.append(image)
        size += len(image.data)
        if size >= _GROUP_BYTES or len(group) >= _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _row(image: VerifiedImage) -> dict[str, object]:
    path = f"{image.sha256}.{'jpg' if image.format == 'JPEG' else image.format.lower()}"
    return {
        "image_sha256": image.sha256,
        "image": {"bytes": image.data, "path": path},
        "width": image.width,
        "height": image.height,
    }


def _digest(url: str) -> bytes:
    # Hashed: a URL may be a whole image (`data:`), or carry a signature that is nobody's business.
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).digest()
