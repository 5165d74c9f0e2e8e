"""One process of this machine at a time: a lock that says who holds it, and that is not waited for without end.

The system releases a file lock (flock) when the process that holds it ends, however it ends: there is none to clean up.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pipeline.errors import FastenError

logger = logging.getLogger(__name__)

WAIT_S = 600.0
"""Longer than any push takes that gets answers."""
TELL_AFTER_S = 1.0
_LOOK_EVERY_S = 0.2


@contextmanager
def one_at_a_time(
    path: Path,
    *,
    what: str,
    wait_s: float = WAIT_S,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Holds the lock at `path`, whose folder is made; `what` says what its holder does, as “another push to …”.

    After a second of waiting the log says who holds it. Raises `FastenError` after `wait_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, what, wait_s, pause, clock) as file:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
        }
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        yield


@contextmanager
def _locked(
    path: Path, what: str, wait_s: float, pause: Callable[[float], None], clock: Callable[[], float]
) -> Iterator[IO[str]]:
    began, told = clock(), False
    while True:
        # Not truncated when it is opened: what stands there is about whoever holds it.
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as file:
            if _take(file) and _is(file, path):
                yield file
                return
            holder = _holder(file)
        waited = clock() - began
        if waited >= wait_s:
            raise FastenError(
                f"{what} ({holder}) has not ended within {wait_s:.0f} s: wait for it, or end it if it hangs"
            )
        if waited >= TELL_AFTER_S and not told:
            logger.warning("waiting for %s (%s) to end", what, holder)
            told = True
        pause(_LOOK_EVERY_S)


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(file: IO[str], path: Path) -> bool:
    """Whether the path still leads to this file: a tidier of temporary folders may have taken it away meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: IO[str]) -> str:
    try:
        said = json.loads(file.read(1_000))
        return f"process {int(said['pid'])} on {str(said['host'])[:80]}, since {str(said['since'])[:40]}"
    except (ValueError, KeyError, TypeError):  # it has only just begun
        return "it has only just begun"
