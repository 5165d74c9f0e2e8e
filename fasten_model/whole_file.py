"""Files that are whole, or not there."""

import os
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


def check_writable(folder: Path) -> None:
    """`DataError` unless files can be written to `folder`, or it can be made: better said now than after an hour."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise DataError(f"nothing can be written to {folder}: {place} is no folder that you may write to")
