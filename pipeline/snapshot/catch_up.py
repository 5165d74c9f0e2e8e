"""Bringing the mirror up to date with one Label Studio project, reading as little as possible.

In the words of incremental loading (dlt's): the *cursor* is `updated_at` of a task, which every annotation, edit, skip,
ground-truth flip and deleted annotation moves; its *initial value* is the newest change before the first load began;
the *primary key* is the task's id, so that what is read twice counts once; the *lag* is `LAG` before the cursor, read
again since a transaction that is still open has a time that is past already; a task *without* a cursor value is kept,
and read again every time.

Only Label Studio's own times are compared with each other: this machine's clock decides nothing but how often
everything is reconciled.

What a cursor cannot show, counting does: after the changes are in, the tasks and annotations here are as many as there.
Since every new or changed task is here, as many tasks are the same tasks; more are here when some were deleted. Then
the ids and times of all tasks are listed, which costs a fifth of reading them, and what differs is read or dropped. The
same is done every `RECONCILE_AFTER`, for a server whose own clock was set back or whose tables were edited by hand.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from pipeline.errors import DataError
from pipeline.records import Chunk, Origin, Project, ProjectState, TaskRead
from pipeline.snapshot.mirror import Mirror, Row, Standing, started

logger = logging.getLogger(__name__)

LAG = timedelta(seconds=10)
"""A transaction takes less, except imports, of which the counts tell."""
RECONCILE_AFTER = timedelta(days=7)
"""How long the cursor and the counts are trusted."""
_CURSOR = "%Y-%m-%dT%H:%M:%S.%fZ"
_PROGRESS = 10_000
_TASKS_APART = 5_000
"""Tasks of a first load that are read before `meanwhile` is called again."""
_ATTEMPTS = 3

Reader = Callable[[TaskRead], Row]
"""Makes of a task what the mirror keeps of it."""


class ChangeSource(Protocol):
    """What is needed of Label Studio (`label_studio.LabelStudio` has it)."""

    def count_answered(self, project: Project, /) -> tuple[int, int]: ...
    def newest_change(self, project: Project, /) -> str: ...
    def all_answered(
        self, project: Project, /, *, after: int = 0, mark: str = "", resumed: bool = True
    ) -> Iterator[Chunk]: ...
    def change_times(self, project: Project, /, *, since: str = "") -> Iterator[tuple[int, str, bool]]: ...
    def tasks_by_id(self, project: Project, ids: list[int], /) -> Iterator[Chunk]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One project to be caught up with."""

    project: Project
    origin: Origin
    reading: str
    """Digest of everything that decides what is made of its tasks: where it changes, all are read anew."""
    state: ProjectState | None = None
    """How the project looks, as far as that was asked just before."""


def catch_up(
    door: ChangeSource,
    mirror: Mirror,
    source: Source,
    read: Reader,
    *,
    mark: str = "",
    meanwhile: Callable[[], object] = lambda: None,
    now: datetime | None = None,
) -> None:
    """Bring the mirror of one project up to date; takes up a first load where it was cut off.

    Asks nothing at all where `source.state` is as it was when the last reading ended. During a long first load, which
    is mostly waiting, `meanwhile` is called now and then. Lets the errors of Label Studio through: what was read until
    then is kept.
    """
    project, now = source.project, now or datetime.now(UTC)
    number = project.project_id
    state = _told(source.state)
    standing, resumed = mirror.standing(number), True
    if standing is None or (standing.origin, standing.reading) != (source.origin, source.reading):
        resumed = standing is not None
        newest = _in_utc(source.state.newest_change) if source.state else ""
        standing = started(_fresh(source), cursor=newest or door.newest_change(project))
        mirror.begin(number, standing)
    if not standing.loaded:
        chunks = door.all_answered(project, after=standing.through, mark=mark, resumed=resumed)
        _load(chunks, mirror, project, standing, read, meanwhile)
        standing = replace(standing, loaded=True, reconciled_at=now)
        mirror.stand(number, standing)
    elif state and standing.state == state and not reconciliation_due(standing, now):
        logger.info("project %r: nothing has changed", project.title)
        return
    standing, agreed = _follow(door, mirror, project, standing, read)
    if not agreed or reconciliation_due(standing, now):
        _reconcile(door, mirror, project, read)
        standing = replace(standing, reconciled_at=now)
    # What could not be read is tried again every time, and so the project has to be looked at every time.
    mirror.stand(number, replace(standing, state="" if mirror.unread(number) else state))
    logger.info("project %r: %d tasks with answers", project.title, mirror.counts(number)[0])


def reconciliation_is_due(data_dir: Path, now: datetime) -> bool:
    """Whether any project of the mirror below `data_dir` is to be compared as a whole; False without a mirror."""
    with contextlib.suppress(DataError), Mirror.existing(data_dir) as mirror:
        return mirror is not None and any(reconciliation_due(standing, now) for standing in mirror.standings())
    return False


def reconciliation_due(standing: Standing, now: datetime) -> bool:
    """Whether every task is to be compared, however little has changed."""
    return standing.reconciled_at is None or abs(now - standing.reconciled_at) > RECONCILE_AFTER


def _fresh(source: Source) -> Standing:
    return Standing(
        origin=source.origin,
        reading=source.reading,
        cursor="",
        through=0,
        loaded=False,
        state="",
        reconciled_at=None,
    )


def _told(state: ProjectState | None) -> str:
    return "" if state is None else f"{state.tasks}/{state.annotations}/{state.newest_change}"


def _load(
    chunks: Iterator[Chunk],
    mirror: Mirror,
    project: Project,
    standing: Standing,
    read: Reader,
    meanwhile: Callable[[], object],
) -> None:
    if standing.through:
        logger.info("project %r: reading goes on after task %d", project.title, standing.through)
    done = said = looked = 0
    for chunk in chunks:
        _put(mirror, project, chunk, read, through=chunk.through)
        done += len(chunk.tasks)
        if done - looked >= _TASKS_APART:
            looked = done
            meanwhile()
        if done - said >= _PROGRESS:
            said = done
            logger.info("project %r: %d tasks read", project.title, done)


def _follow(
    door: ChangeSource, mirror: Mirror, project: Project, standing: Standing, read: Reader
) -> tuple[Standing, bool]:
    """Read what has changed since the cursor, until the counts agree or have disagreed too often; → whether they do."""
    _read_again(door, mirror, project, mirror.unread(project.project_id), read)
    for _ in range(_ATTEMPTS):
        # Asked before the changes are: one that is made to a task while later ones are being read comes next time.
        newest = door.newest_change(project)
        since = _before(standing.cursor)
        if since:
            _read_changed(door, mirror, project, since, read)
        else:
            _reconcile(door, mirror, project, read)
        standing = replace(standing, cursor=max(standing.cursor, newest))
        mirror.stand(project.project_id, standing)
        here, there = mirror.counts(project.project_id), door.count_answered(project)
        if here == there:
            return standing, True
        if here[0] > there[0]:
            break
    return standing, False


def _read_changed(door: ChangeSource, mirror: Mirror, project: Project, since: str, read: Reader) -> None:
    """Read those of the tasks that changed after `since` that are not here as they are there.

    Their times are listed first: the lag alone may hold thousands of tasks that are here already.
    """
    number = project.project_id
    differing, silent = [], []
    for task_id, time, answered in door.change_times(project, since=since):
        known = mirror.time_of(number, task_id)
        if not answered:
            silent += [] if known is None else [task_id]
        elif known != time or not time:
            differing.append(task_id)
    if silent:
        mirror.put(number, (), gone=silent)
    _read_again(door, mirror, project, differing, read)


def _read_again(door: ChangeSource, mirror: Mirror, project: Project, ids: list[int], read: Reader) -> None:
    if not ids:
        return
    for chunk in door.tasks_by_id(project, ids):
        _put(mirror, project, chunk, read)


def _before(cursor: str) -> str:
    if not cursor:
        return ""
    return (datetime.fromisoformat(cursor) - LAG).strftime(_CURSOR)


def _in_utc(time: str) -> str:
    """A time as Label Studio tells it, as cursors have it; empty where it is none."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).strftime(_CURSOR)
    except (ValueError, OverflowError):
        return ""


def _reconcile(door: ChangeSource, mirror: Mirror, project: Project, read: Reader) -> None:
    """Compare ids and times of all tasks; read what is missing or differs, drop what is gone."""
    number = project.project_id
    gone, differing = _differences(mirror.times(number), door.change_times(project))
    if gone or differing:
        logger.info("project %r: %d tasks are gone, %d are read again", project.title, len(gone), len(differing))
    if gone:
        mirror.put(number, (), gone=gone)
    _read_again(door, mirror, project, differing, read)


def _differences(
    here: Iterator[tuple[int, str]], there: Iterator[tuple[int, str, bool]]
) -> tuple[list[int], list[int]]:
    """(ids that are only here, ids that are only there or have another time), of two lists by ascending id."""
    gone: list[int] = []
    differing: list[int] = []
    ours = next(here, None)
    for task_id, time, _ in there:
        while ours is not None and ours[0] < task_id:
            gone.append(ours[0])
            ours = next(here, None)
        known = ours is not None and ours[0] == task_id
        if not known or not time or ours is None or ours[1] != time:
            differing.append(task_id)
        if known:
            ours = next(here, None)
    while ours is not None:
        gone.append(ours[0])
        ours = next(here, None)
    return gone, differing


def _put(mirror: Mirror, project: Project, chunk: Chunk, read: Reader, *, through: int | None = None) -> None:
    """Keep the tasks of a chunk that somebody has said something of, and drop the others."""
    kept = [each for each in chunk.tasks if each.entries and each.task_id]
    silent = [each.task_id for each in chunk.tasks if not each.entries]
    mirror.put(project.project_id, map(read, kept), gone=silent, through=through)
