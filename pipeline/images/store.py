"""The images of all snapshots: each kept once, in append-only Parquet files, and found by hash or by address.

    root/images/part-….parquet, urls-….parquet    the bytes, and which address gave which (`shards`)
    root/images/index.sqlite                      hash → part and row group, address → hash

The Parquet files are the truth, and never changed. The index is written after the file it describes; whatever a killed
pull left out of it, and whatever another machine's files bring, is read in when the store is opened.
"""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.database_errors import is_in_use, told_of_the_file
from pipeline.errors import DataError
from pipeline.images import shards
from pipeline.images.batch import Batch
from pipeline.images.check import VerifiedImage

logger = logging.getLogger(__name__)

_PART_BYTES = 32 * 2**20
_PART_ROWS = 20_000
_PART_S = 30.0
_LOOKED_UP_AT_ONCE = 500
_TABLES = """
CREATE TABLE IF NOT EXISTS file (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image (sha256 TEXT PRIMARY KEY, part TEXT NOT NULL, row_group INT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS url (digest BLOB PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID;
"""


class ImageStore:
    """Images by hash, and by the address they were fetched from.

    One writer at a time (`snapshot.writer.exclusive_pull`), any number of readers. Memory holds one part being filled
    and one being written (at most 32 MiB each), or one row group being read. Raises `DataError` where the folder is
    damaged.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "images"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._filling = Batch()
        self._writing: Batch | None = None
        self._job: Future[None] | None = None
        # Fetching goes on while a part is written.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="image-store")
        self._swept = False
        # Threads fetch, but one thread alone talks to the store.
        with self._opening():
            self._index = sqlite3.connect(self._folder / "index.sqlite", timeout=60)
        try:
            with self._opening():
                self._index.executescript(_TABLES)
                self._catch_up()
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
        self._writer.shutdown()
        self._index.close()

    def known(self, urls: Sequence[str]) -> dict[str, str]:
        """The hash of the image that each of `urls` gave once; those never fetched are left out."""
        by_digest = {_digest(url): url for url in urls}
        pending = (self._writing.urls if self._writing is not None else {}) | self._filling.urls
        found = {url: pending[digest] for digest, url in by_digest.items() if digest in pending}
        # Joined: an address whose image is gone was never fetched.
        query = "SELECT digest, sha256 FROM url JOIN image USING (sha256) WHERE digest IN (?)"
        asked = [digest for digest, url in by_digest.items() if url not in found]
        found |= {by_digest[digest]: sha256 for digest, sha256 in self._looked_up(query, asked)}
        return found

    def add(self, url: str, image: VerifiedImage) -> None:
        """Keep `image` as what `url` gives; written with the part it falls into, at the latest by `flush`."""
        self._filling.add(_digest(url), image)
        if self._filling.size >= _PART_BYTES or len(self._filling.urls) >= _PART_ROWS:
            self._hand_over()

    def flush_if_old(self) -> None:
        """Write what has been pending for half a minute: a pull that is killed loses no more than that."""
        if self._filling.urls and time.monotonic() - self._filling.since >= _PART_S:
            self.flush()

    def flush(self) -> None:
        """Write what is pending; then all of it is known, whatever happens to this process.

        Images, then their addresses, then the index. A file that is there is whole, and is read in later where the
        index does not have it. After an error, what is not written is still pending.
        """
        self._hand_over()
        self._settle()

    def _hand_over(self) -> None:
        """Begin to write what has been filled; what was being written before is written now."""
        self._settle()
        if not self._filling.urls:
            return
        self.sweep()
        for sha256 in self._among(list(self._filling.images)):
            del self._filling.images[sha256]
        self._writing, self._filling = self._filling, Batch()
        self._job = self._writer.submit(self._writing.write, self._folder)

    def sweep(self) -> None:
        """Remove what a killed writer left unfinished; once, and only in a process that is the one writer."""
        if not self._swept:
            shards.sweep(self._folder)
            self._swept = True

    def _settle(self) -> None:
        """Wait until what is being written is, and enter it into the index."""
        if self._writing is None:
            return
        batch = self._writing
        job, self._job = self._job or self._writer.submit(batch.write, self._folder), None
        try:
            job.result()
        finally:
            if batch.part is not None:
                with self._entering():
                    self._enter_part(*batch.part)
                batch.part = None
        with self._entering():
            self._enter_urls(batch.urls_file, batch.urls.items())
        self._writing = None

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
                with shards.open_shard(self._folder, part) as file:
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
        return tuple(file for file in self.files() if file.name.startswith("part-"))

    def files(self) -> tuple[Path, ...]:
        """Every file that the store is made of, oldest first; the index is made again from them wherever they are.

        They are written once and never changed. Files of several machines may be put together in one folder.
        """
        return tuple(self._folder / name for name in shards.listed(self._folder))

    def _among(self, hashes: Sequence[str]) -> set[str]:
        """Those of `hashes` whose images are in a part."""
        rows = self._looked_up("SELECT sha256 FROM image WHERE sha256 IN (?)", hashes)
        return {str(sha256) for (sha256,) in rows}

    def _looked_up(self, query: str, wanted: Sequence[bytes] | Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The rows of `query` for all of `wanted`, which stand where its question mark does."""
        for start in range(0, len(wanted), _LOOKED_UP_AT_ONCE):
            some = wanted[start : start + _LOOKED_UP_AT_ONCE]
            yield from self._index.execute(query.replace("?", ", ".join("?" * len(some))), some)

    @contextmanager
    def _opening(self) -> Iterator[None]:
        path = self._folder / "index.sqlite"
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_in_use(error):
                raise DataError(f"{path} is in use by another process; run it again when that has ended") from None
            raise told_of_the_file(error, path) or DataError(
                f"{path} is damaged ({error}); remove it: it is made again from the parts"
            ) from error

    def _catch_up(self) -> None:
        """Enter files that the index does not know; where any is gone, make the whole of it again."""
        if self._entered() == set(shards.listed(self._folder)):
            return
        with self._index:
            # Looked at again while nobody else enters anything: what a pull has entered since the files were listed
            # would look as if it were gone.
            self._index.execute("BEGIN IMMEDIATE")
            entered, present = self._entered(), shards.listed(self._folder)
            if gone := sorted(entered.difference(present)):
                logger.warning(
                    "%d files of %s are gone, the first is %s; what only they held will be fetched again",
                    len(gone),
                    self._folder,
                    gone[0],
                )
                for emptied in ("DELETE FROM file", "DELETE FROM image", "DELETE FROM url"):
                    self._index.execute(emptied)
                entered = set()
            for name in present:
                if name in entered:
                    continue
                if name.startswith("part-"):
                    self._enter_part(name, shards.read_places(self._folder, name))
                else:
                    self._enter_urls(name, shards.read_urls(self._folder, name))

    def _entered(self) -> set[str]:
        """The names of the files that the index knows."""
        return {str(name) for (name,) in self._index.execute("SELECT name FROM file")}

    @contextmanager
    def _entering(self) -> Iterator[None]:
        try:
            with self._index:
                yield
        except sqlite3.Error as error:
            raise DataError(f"{self._folder / 'index.sqlite'} cannot be written ({error}); run it again") from error

    def _enter_part(self, name: str, places: Iterable[tuple[str, int]]) -> None:
        self._index.execute("INSERT OR IGNORE INTO file VALUES (?)", (name,))
        rows = ((sha256, name, row_group) for sha256, row_group in places)
        self._index.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?)", rows)

    def _enter_urls(self, name: str, urls: Iterable[tuple[bytes, str]]) -> None:
        self._index.execute("INSERT OR IGNORE INTO file VALUES (?)", (name,))
        self._index.executemany("INSERT OR REPLACE INTO url VALUES (?, ?)", urls)

    def _read_group(
        self, file: pq.ParquetFile, part: str, row_group: int, wanted: set[str]
    ) -> Iterator[tuple[str, bytes]]:
        try:
            table = file.read_row_group(row_group, columns=["image_sha256", "image"])
        except (OSError, pa.ArrowException) as error:
            raise shards.damaged(self._folder, part) from error
        for sha, image in zip(table["image_sha256"], table["image"], strict=True):
            if sha.as_py() in wanted:
                yield sha.as_py(), image["bytes"].as_py()


def _digest(url: str) -> bytes:
    # Hashed: an address may be a whole image (`data:`), or carry a signature that is nobody's business.
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).digest()
