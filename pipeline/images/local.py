"""Images below the server's local-files root, read from disk; no path leaves that root."""

import errno
import os
import stat
from pathlib import Path

from pipeline.images.check import ImageError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# Not blocking and not following: a pipe or a link must not catch us.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_BLOCK = 65_536


class LocalFiles:
    """Files below `root` by their name there. Serves many threads.

    A name is walked folder by folder, each opened in the one before and none through a link, so that nothing swapped
    meanwhile leads out. Links are followed only where they end below the root, by walking to that end.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root.resolve()
        self._max_bytes = max_bytes

    def read(self, name: str) -> bytes:
        """The file's bytes; raises `ImageError` where it is outside, missing, no file, or too large."""
        try:
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if ".." in parts:
                return self._walk(self._real(name))
            try:
                return self._walk(parts)
            except OSError as error:
                # A link says so as a file; as a folder it is “not a directory”.
                if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                    raise
            return self._walk(self._real(name))
        except (OSError, ValueError, RuntimeError) as error:  # missing, unreadable, a NUL in the name, a loop of links
            what = getattr(error, "strerror", None) or str(error)
            raise ImageError("image file cannot be read", f"{_shown(name)} ({what})") from error

    def _real(self, name: str) -> list[str]:
        found = (self._root / name.lstrip("/")).resolve(strict=True)
        if not found.is_relative_to(self._root):
            raise ImageError("image lies outside the local files", _shown(name))
        return list(found.relative_to(self._root).parts)

    def _walk(self, parts: list[str]) -> bytes:
        if not parts:
            raise ImageError("image is not a file", "the local files' root")
        folder = os.open(self._root, _FOLDER)
        try:
            for part in parts[:-1]:
                below = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            file = os.open(parts[-1], _FILE, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            return self._bytes(file, "/".join(parts))
        finally:
            os.close(file)

    def _bytes(self, file: int, name: str) -> bytes:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise ImageError("image is not a file", _shown(name))
        if found.st_size > self._max_bytes:
            raise ImageError("image has too many bytes", f"{_shown(name)}, limit {self._max_bytes}")
        # One byte more than there should be: who is still writing shows here.
        blocks = [os.read(file, found.st_size + 1)]
        size = len(blocks[0])
        while size <= self._max_bytes and (block := os.read(file, _BLOCK)):
            blocks.append(block)
            size += len(block)
        if size > self._max_bytes:
            raise ImageError("image has too many bytes", f"{_shown(name)}, limit {self._max_bytes}")
        return b"".join(blocks)


def _shown(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:120])
