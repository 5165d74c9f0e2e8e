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
the counts lead to what differs (`comparing`): also to a task that was given the annotations of a removed duplicate, of
which its time says nothing. Times and counts of all tasks are compared every `RECONCILE_AFTER`, for tables that were
edited by hand, and at once when the server's clock was set back: what is changed from then on has a time before the
cursor. The cursor goes back with that clock, and does not pass it again.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import DataError, ServiceError
from pipeline.records import Chunk, Origin, Project, ProjectState, Recent
from pipeline.snapshot.comparing import ChangeSource, Copy, Reader
from pipeline.snapshot.mirror import Mirror, Standing, started

logger = logging.getLogger(__name__)

LAG = timedelta(seconds=10)
"""A transaction takes less, except imports, of which the counts tell. A clock that is set back by less is covered."""
RECONCILE_AFTER = timedelta(days=7)
"""How long the cursor and the counts are trusted."""
_CURSOR = "%Y-%m-%dT%H:%M:%S.%fZ"
_PROGRESS = 10_000
_TASKS_APART = 2_000
"""Tasks of a first load that are read before `meanwhile` is called again."""
_ATTEMPTS = 3


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
    number, copy = project.project_id, Copy(door=door, mirror=mirror, project=source.project, read=read)
    standing, resumed = mirror.standing(number), True
    if standing is None or (standing.origin, standing.reading) != (source.origin, source.reading):
        resumed = standing is not None
        newest = _in_utc(source.state.newest_change) if source.state else ""
        standing = started(_fresh(source), cursor=_no_later(newest or door.newest_change(project), door.clock(project)))
        mirror.begin(number, standing)
    state, set_back = _told(source.state, door.clock(project)), _is_ahead(standing.cursor, door.clock(project))
    quiet = None
    if not standing.loaded:
        chunks = door.all_answered(project, after=standing.through, mark=mark, resumed=resumed, state=source.state)
        with contextlib.closing(chunks), _Afterwards(door, project) as afterwards:
            _load(chunks, copy, standing, meanwhile, afterwards)
        standing = replace(standing, loaded=True, reconciled_at=now)
        mirror.stand(number, standing)
        quiet = None if set_back else _quiet(copy, standing, afterwards.recent)
    elif state and standing.state == state and not set_back and not reconciliation_due(standing, now):
        logger.info("project %r: nothing has changed", project.title)
        return
    if set_back:
        logger.warning("project %r: Label Studio's clock was set back; every task is compared", project.title)
        # Owed until it is done: the cursor, once it has gone back, no longer shows it.
        standing = replace(standing, cursor=_no_later(standing.cursor, door.clock(project)), reconciled_at=None)
    standing, agreed = (quiet, True) if quiet is not None else _follow(copy, standing)
    if not agreed or reconciliation_due(standing, now):
        copy.compare()
        standing = replace(standing, reconciled_at=now)
    # What could not be read is tried again every time, and so the project has to be looked at every time.
    mirror.stand(number, replace(standing, state="" if mirror.unread(number) else state))
    logger.info("project %r: %d tasks with answers", project.title, mirror.counts(number)[0])


def reconciliation_is_due(data_dir: Path, now: datetime, *, there: datetime | None = None) -> bool:
    """Whether any project of the mirror below `data_dir` has to be read, however it looks; False without a mirror.

    `there` is what the clock of Label Studio says.
    """
    with contextlib.suppress(DataError), Mirror.existing(data_dir) as mirror:
        return mirror is not None and any(
            not each.state or _is_ahead(each.cursor, there) or reconciliation_due(each, now)
            for each in mirror.standings()
        )
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


def _told(state: ProjectState | None, clock: datetime | None) -> str:
    """How the project looks; empty where that is unknown, or hides changes before a newest one that is yet to come."""
    if state is None or _is_ahead(state.newest_change, clock):
        return ""
    return f"{state.tasks}/{state.annotations}/{state.newest_change}"


class _Afterwards:
    """What Label Studio says after a first load, asked in the background as soon as the last of that has come.

    A context manager: leaving it waits for the answer.
    """

    def __init__(self, door: ChangeSource, project: Project) -> None:
        self._ask = partial(door.recent, project)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="afterwards")
        self._asked: Future[Recent] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def ask(self) -> None:
        self._asked = self._pool.submit(self._ask)

    @property
    def recent(self) -> Recent | None:
        """The answer; None where none was asked for, or came."""
        if self._asked is None or isinstance(self._asked.exception(), ServiceError):
            return None
        return self._asked.result()


def _load(
    chunks: Iterator[Chunk],
    copy: Copy,
    standing: Standing,
    meanwhile: Callable[[], object],
    afterwards: _Afterwards,
) -> None:
    title = copy.project.title
    if standing.through:
        logger.info("project %r: reading goes on after task %d", title, standing.through)
    done = said = looked = 0
    for chunk in chunks:
        if chunk.last and standing.cursor:
            afterwards.ask()
        copy.keep(chunk, through=chunk.through)
        done += len(chunk.tasks)
        if done - looked >= _TASKS_APART or chunk.last:
            looked = done
            meanwhile()
        if done - said >= _PROGRESS:
            said = done
            logger.info("project %r: %d tasks read", title, done)


def _quiet(copy: Copy, standing: Standing, recent: Recent | None) -> Standing | None:
    """The standing after a first load during which nothing was changed; None where that is not certain.

    One answer tells, given after everything had been read: what has changed since the cursor is here as it is there,
    and as much is there as is here. So nothing is to be read again, and nothing is gone.
    """
    number, since = copy.project.project_id, _before(standing.cursor) if standing.cursor else ""
    if recent is None or not since or copy.mirror.unread(number):
        return None
    changed = [each for each in recent.tasks if not each.updated_at or each.updated_at > since]
    all_listed = len(changed) < len(recent.tasks) or len(recent.tasks) == recent.counts[0]
    if not all_listed or copy.mirror.counts(number) != recent.counts:
        return None
    if any(not each.updated_at or copy.mirror.listed_as(number, each.task_id) != each for each in changed):
        return None
    latest = max((each.updated_at for each in recent.tasks), default="")
    return replace(standing, cursor=max(standing.cursor, _no_later(latest, recent.clock)))


def _follow(copy: Copy, standing: Standing) -> tuple[Standing, bool]:
    """Read what has changed since the cursor, until the counts agree or have disagreed too often; → whether they do."""
    door, mirror, project = copy.door, copy.mirror, copy.project
    copy.read_again(mirror.unread(project.project_id))
    there = (0, 0)
    for _ in range(_ATTEMPTS):
        if standing.cursor:
            newest = _read_changed(copy, _before(standing.cursor))
        else:
            # Asked before: what is changed meanwhile comes next time.
            newest = _no_later(door.newest_change(project), door.clock(project))
            copy.compare()
        standing = replace(standing, cursor=max(standing.cursor, newest))
        mirror.stand(project.project_id, standing)
        here, there = mirror.counts(project.project_id), door.count_answered(project)
        if here == there:
            return standing, True
        if here[0] > there[0]:
            break
    return standing, copy.search(there)


def _read_changed(copy: Copy, since: str) -> str:
    """Read those of the tasks that changed after `since` that are not here as they are there; → the next cursor.

    Their times are listed first: the lag alone may hold thousands of tasks that are here already. What is changed on
    one page while later ones are listed comes next time: so the cursor does not pass what the first one was listed at.
    """
    number, newest, limit = copy.project.project_id, "", ""
    differing, silent = [], []
    for page in copy.door.change_times(copy.project, since=since):
        latest, clock = max((each.updated_at for each in page), default=""), copy.door.clock(copy.project)
        if not limit:
            newest = _no_later(latest, clock)
            limit = max(newest, _held_to(clock)) if clock else newest
        newest = max(newest, min(latest, limit))
        for each in page:
            known = copy.mirror.listed_as(number, each.task_id)
            if not each.entries:
                silent += [] if known is None else [each.task_id]
            elif known != each or not each.updated_at:
                differing.append(each.task_id)
    copy.drop(silent)
    copy.read_again(differing)
    return newest


def _before(cursor: str) -> str:
    return (datetime.fromisoformat(cursor) - LAG).strftime(_CURSOR)


def _is_ahead(time: str, clock: datetime | None) -> bool:
    """Whether a time of Label Studio's is later than its clock says, by more than the lag covers."""
    told = _in_utc(time)
    return clock is not None and told != "" and datetime.fromisoformat(told) - clock > LAG


def _no_later(cursor: str, clock: datetime | None) -> str:
    """The cursor, or the clock where that is earlier."""
    return _held_to(clock) if clock and _is_ahead(cursor, clock) else cursor


def _held_to(clock: datetime) -> str:
    """The cursor of what was asked a moment before the clock was read."""
    return (clock - LAG).astimezone(UTC).strftime(_CURSOR)


def _in_utc(time: str) -> str:
    """A time as Label Studio tells it, as cursors have it; empty where it is none."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).strftime(_CURSOR)
    except (ValueError, OverflowError):
        return ""
