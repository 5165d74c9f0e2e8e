"""One push at a time into a review project, from whichever workspace of this machine."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.one_at_a_time import WAIT_S, one_at_a_time


@contextmanager
def one_push(url: str, project: int | str, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Holds the lock of a review project (its id, or the title that it is about to get) of the Label Studio at `url`.

    Two workspaces that fill one review project must exclude each other, so the lock is below neither. It is in a folder
    of this user's among the temporary files, and goes with its process. Raises `FastenError` where another push does
    not end within `wait_s`.
    """
    name = hashlib.sha256(f"{url.rstrip('/')}\0{project}".encode()).hexdigest()[:24]
    path = _folder() / f"push-{name}.lock"
    with one_at_a_time(path, what=f"another push to project {project} of {url}", wait_s=wait_s):
        yield


def _folder() -> Path:
    """A folder that nobody else can write to; others may have made one of that name."""
    folder = Path(tempfile.gettempdir()) / f"fasten-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(f"{folder} is not this user's alone: remove it, or set TMPDIR to another folder")
    return folder
