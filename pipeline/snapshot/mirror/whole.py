"""The mirror, put together from its parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pipeline.snapshot.mirror.images import ImageOutcomes
from pipeline.snapshot.mirror.said import WhatWasSaid
from pipeline.snapshot.mirror.standing import Standings
from pipeline.snapshot.mirror.tasks import KeptTasks


class Mirror(Standings, KeptTasks, ImageOutcomes, WhatWasSaid):
    """A context manager. One process at a time (`writer.exclusive_pull`). Raises `DataError` where it is damaged."""

    @classmethod
    @contextmanager
    def existing(cls, data_dir: Path) -> Iterator[Self | None]:
        """The mirror below `data_dir`; None where no pull has made one. Raises `DataError` where one is under way."""
        path = mirror_path(data_dir)
        if not path.exists():
            yield None
            return
        with cls(path, patience_s=0.5) as mirror:
            yield mirror


def mirror_path(data_dir: Path) -> Path:
    """Where the mirror of a workspace lies."""
    return data_dir / "mirror.sqlite"
