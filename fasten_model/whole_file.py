"""Files that are whole, or not there."""

import os
import tempfile
from pathlib import Path

from fasten_model.errors import DataError

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""


def write_whole(path: Path, content: bytes) -> None:
    """`content` at `path` and on the disk, or whatever was there before; the folder must exist."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def check_writable(folder: Path, what: str = "nothing") -> None:
    """`DataError` unless files can be written to `folder`, or it can be made: better said now than after an hour.

    It is tried where the nearest folder is that exists: what the permissions say is not all, root has them everywhere.
    what: "nothing", or "no" and a thing, that can then not be written.
    """
    place = folder.absolute()
    try:
        while not place.exists() and not place.is_symlink():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise DataError(f"{what} can be written to {folder}: {place} is no folder that you may write to")
        Path(tempfile.mkdtemp(prefix=".writable-", dir=place)).rmdir()
    except OSError as error:
        raise DataError(f"{what} can be written to {folder}: {place} does not take it ({error.strerror})") from error
