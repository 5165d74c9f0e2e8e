"""Comparing the mirror of one project with Label Studio, and reading again what differs.

Where the counts say that something is gone, they also lead to it: a range of ids in which both sides count the same is
not looked at, any other is halved, down to some that are cheap to list. A deleted task among 60,000 takes half a dozen
counts and a thousand ids. Where two changes make up for each other no count shows them: `compare` lists a whole range.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Protocol

from pipeline.records import Chunk, Listed, Project, ProjectState, Recent, TaskRead
from pipeline.snapshot.mirror import Mirror, Row

logger = logging.getLogger(__name__)

FEW = 1_000
"""Tasks of a range that is listed; to halve it again takes as long."""
MOST_COUNTS = 24
"""Ranges counted at most: where as many differ, listing what is left costs less."""

Reader = Callable[[TaskRead], Row]
"""Makes of a task what the mirror keeps of it."""


class ChangeSource(Protocol):
    """What is needed of Label Studio (`label_studio.LabelStudio` has it).

    Chunks are read ahead: what has an end before theirs closes them, or something is still under way after it.
    """

    def clock(self, project: Project, /) -> datetime | None: ...
    def newest_change(self, project: Project, /) -> str: ...
    def all_answered(
        self, project: Project, /, *, after: int = 0, mark: str = "", resumed: bool = False,
        state: ProjectState | None = None,
    ) -> Generator[Chunk, None, None]: ...  # fmt: skip
    def recent(self, project: Project, /) -> Recent: ...
    def count_answered(self, project: Project, /, *, after: int = 0, through: int | None = None) -> tuple[int, int]: ...
    def change_times(
        self, project: Project, /, *, since: str = "", after: int = 0, through: int | None = None
    ) -> Iterator[list[Listed]]: ...
    def tasks_by_id(self, project: Project, ids: list[int], /) -> Generator[Chunk, None, None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Range:
    after: int
    through: int | None
    there: tuple[int, int]
    """What Label Studio counts in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """The mirror of one project, and where it is copied from."""

    door: ChangeSource
    mirror: Mirror
    project: Project
    read: Reader

    def keep(self, chunk: Chunk, *, through: int | None = None) -> None:
        """Keep the tasks of a chunk that somebody has said something of, and drop the others."""
        kept = [each for each in chunk.tasks if each.entries and each.task_id]
        silent = [each.task_id for each in chunk.tasks if not each.entries]
        self.mirror.put(self.project.project_id, map(self.read, kept), gone=silent, through=through)

    def drop(self, ids: list[int]) -> None:
        """Forget these tasks."""
        if ids:
            self.mirror.put(self.project.project_id, (), gone=ids)

    def read_again(self, ids: list[int]) -> None:
        """Keep these tasks as they are now."""
        if ids:
            with closing(self.door.tasks_by_id(self.project, ids)) as chunks:
                for chunk in chunks:
                    self.keep(chunk)

    def compare(self, after: int = 0, through: int | None = None) -> None:
        """Compare all tasks in a range as they are listed; read what is missing or differs, drop what is gone."""
        here = self.mirror.listed(self.project.project_id, after=after, through=through)
        there = chain.from_iterable(self.door.change_times(self.project, after=after, through=through))
        gone, differing = _differences(here, there)
        if gone or differing:
            title = self.project.title
            logger.info("project %r: %d tasks are gone, %d are read again", title, len(gone), len(differing))
        self.drop(gone)
        self.read_again(differing)

    def search(self, there: tuple[int, int]) -> bool:
        """Compare where the counts differ, of which `there` is Label Studio's of all; → whether they agree then."""
        number, waiting, counted = self.project.project_id, [_Range(after=0, through=None, there=there)], 0
        while waiting:
            some = waiting.pop()
            here = self.mirror.counts(number, after=some.after, through=some.through)
            if here == some.there:
                continue
            if here[0] <= FEW or counted >= MOST_COUNTS:
                self.compare(some.after, some.through)
                continue
            middle = self.mirror.nth(number, here[0] // 2, after=some.after)
            lower = self.door.count_answered(self.project, after=some.after, through=middle)
            upper = (some.there[0] - lower[0], some.there[1] - lower[1])
            waiting.append(_Range(after=middle, through=some.through, there=upper))
            waiting.append(_Range(after=some.after, through=middle, there=lower))
            counted += 1
        return self.mirror.counts(number) == there


def _differences(here: Iterator[Listed], there: Iterable[Listed]) -> tuple[list[int], list[int]]:
    """(ids that are only here, ids that are only there or are listed otherwise), of two lists by ascending id."""
    gone: list[int] = []
    differing: list[int] = []
    ours = next(here, None)
    for theirs in there:
        while ours is not None and ours.task_id < theirs.task_id:
            gone.append(ours.task_id)
            ours = next(here, None)
        # Times alone do not tell: an annotation that was moved to a task, as from a duplicate of it, leaves its time.
        if ours != theirs or not theirs.updated_at:
            differing.append(theirs.task_id)
        if ours is not None and ours.task_id == theirs.task_id:
            ours = next(here, None)
    while ours is not None:
        gone.append(ours.task_id)
        ours = next(here, None)
    return gone, differing
