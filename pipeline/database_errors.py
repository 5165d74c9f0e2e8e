"""What SQLite says that is no fault of what is in its file, told as the system tells it of any other file."""

import errno
import sqlite3
from pathlib import Path

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_NOT_OURS = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def told_of_the_file(error: sqlite3.Error, path: Path) -> OSError | None:
    """The same as an `OSError`: the disk is full, or the file is not this user's; None where it is about neither."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL:
        return OSError(errno.ENOSPC, f"cannot be written ({error}); is the disk full?", str(path))
    if code in _NOT_OURS:
        return OSError(errno.EACCES, f"cannot be used ({error}); may this user write there?", str(path))
    return None


def is_in_use(error: sqlite3.Error) -> bool:
    """Whether another process had it to itself for longer than was waited."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
