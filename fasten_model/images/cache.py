"""Decoded images, kept: each is decoded once, and read from a memory-mapped file ever after.

    root/<size>px-v<decoder>/images.u8      rows of 3·S·S bytes; only ever appended to
    root/<size>px-v<decoder>/index.sqlite   hash of the image's bytes → row, or why it does not decode

A row counts only once the index says so, and that is written after the row has reached the disk: what a killed process
leaves behind the last such row is written over by the next one. Several processes may read and add at once; they take
turns at writing.
"""

import fcntl
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.images.decode import DECODER, MAX_PIXELS, decode_images
from fasten_model.images.source import TableImages

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 32 * 2**20
_CHUNK_IMAGES = 2_000
"""Images decoded before they are written: what is held in memory, and what a killed process has to decode again."""
_AT_ONCE = 500
"""Hashes in one question to the index."""
_TABLES = """
CREATE TABLE IF NOT EXISTS image (sha256 TEXT PRIMARY KEY, row INT NOT NULL UNIQUE) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bad (sha256 TEXT PRIMARY KEY, max_pixels INT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
"""

Place = int | str
"""The row of an image, or the reason why it has none."""


class ImageCache:
    """The decoded images of one size in the folder `root`, which is made if need be. To be closed (`with`).

    Memory holds some 32 MiB of images, what the decoders are at, and those memory-mapped pages that the system likes to
    keep. Raises `DataError` where the folder cannot be written or is damaged.
    """

    def __init__(self, root: Path, *, size: int, max_pixels: int = MAX_PIXELS) -> None:
        self._size, self._max_pixels = size, max_pixels
        self._row_bytes = 3 * size * size
        self.folder = root / f"{size}px-v{DECODER}"
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._index = sqlite3.connect(self.folder / "index.sqlite", timeout=60)
        try:
            with self._told():
                self._index.executescript(_TABLES)
                self._forget_lost_rows()
        except BaseException:
            self._index.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Images handed out stay usable."""
        self._index.close()

    def find(self, hashes: Iterable[str]) -> dict[str, Place]:
        """Of these hashes (sha256, hex) the ones that are known, with their row or what is wrong with their image."""
        found: dict[str, Place] = {}
        remaining = iter(hashes)
        with self._told():
            while asked := list(islice(remaining, _AT_ONCE)):
                marks = ",".join("?" * len(asked))
                rows = f"SELECT sha256, row FROM image WHERE sha256 IN ({marks})"  # noqa: S608 (question marks alone)
                found.update(self._index.execute(rows, asked))
                bad = f"SELECT sha256, reason FROM bad WHERE max_pixels = ? AND sha256 IN ({marks})"  # noqa: S608
                found.update(self._index.execute(bad, (self._max_pixels, *asked)))
        return found

    def add(self, images: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Place]]:
        """(hash, bytes) of images → (hash, place), in order; those that are not known yet are decoded and kept.

        The hash is taken at its word. What has been handed out is on disk, whatever happens afterwards.
        """
        for chunk in self._chunks(images):
            places = self.find(dict(chunk))
            new = {sha: data for sha, data in chunk if sha not in places}
            if new:
                decoded = decode_images(new.values(), self._size, max_pixels=self._max_pixels)
                places |= self._keep(dict(zip(new, decoded, strict=True)))
            for sha, _ in chunk:
                yield sha, places[sha]

    def images(self, rows: Sequence[int] | Tensor) -> TableImages:
        """The images in these rows, memory-mapped: none is read before it is asked for."""
        wanted = torch.as_tensor(rows, dtype=torch.int64)
        table = torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)
        if len(wanted):
            shape = (int(wanted.max()) + 1, 3, self._size, self._size)
            with self._told(), warnings.catch_warnings():
                # Torch warns of memory that it may not write to; nothing here ever does.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                table = torch.from_numpy(np.memmap(self._rows_file, dtype=np.uint8, mode="r", shape=shape))
        return TableImages(table, wanted)

    @property
    def _rows_file(self) -> Path:
        return self.folder / "images.u8"

    def _chunks(self, images: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
        chunk: list[tuple[str, bytes]] = []
        size = 0
        for sha, data in images:
            chunk.append((sha, data))
            size += len(data) + self._row_bytes
            if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_IMAGES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _keep(self, decoded: Mapping[str, Tensor | DataError]) -> dict[str, Place]:
        """Write what another process has not written meanwhile: the rows, then the index in one transaction."""
        with self._told(), self._one_writer():
            places = self.find(decoded)
            fresh = {sha: image for sha, image in decoded.items() if sha not in places}
            good = {sha: image for sha, image in fresh.items() if isinstance(image, Tensor)}
            bad = {sha: str(error) for sha, error in fresh.items() if isinstance(error, DataError)}
            first = self._next_row()
            rows: dict[str, Place] = {sha: first + number for number, sha in enumerate(good)}
            if good:
                self._write_rows(first, list(good.values()))
            with self._index:
                self._index.executemany("INSERT INTO image VALUES (?, ?)", rows.items())
                self._index.executemany(
                    "INSERT OR REPLACE INTO bad VALUES (?, ?, ?)",
                    ((sha, self._max_pixels, reason) for sha, reason in bad.items()),
                )
        return places | rows | bad

    def _write_rows(self, first: int, images: list[Tensor]) -> None:
        """The rows from `first` on, safely on the disk when this returns."""
        with os.fdopen(os.open(self._rows_file, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            file.seek(first * self._row_bytes)
            for image in images:
                file.write(image.contiguous().numpy().data)
            file.flush()
            os.fsync(file.fileno())

    def _next_row(self) -> int:
        (last,) = self._index.execute("SELECT MAX(row) FROM image").fetchone()
        return 0 if last is None else int(last) + 1

    def _forget_lost_rows(self) -> None:
        """Rows that the index knows and the file does not hold (it was cut off, or lost) are decoded again."""
        with self._one_writer():
            held = self._rows_file.stat().st_size // self._row_bytes if self._rows_file.exists() else 0
            lost = self._next_row() - held
            if lost > 0:
                _log.warning("%s: the last %d images are gone; they are decoded again", self._rows_file, lost)
                with self._index:
                    self._index.execute("DELETE FROM image WHERE row >= ?", (held,))

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        """Rows are numbered by one process at a time. The lock goes with its process."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong with the files, told as one line."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.folder} is damaged ({error}); remove it: the images are decoded again") from error
        except OSError as error:
            raise DataError(f"decoded images cannot be kept in {self.folder} ({error.strerror or error})") from error
