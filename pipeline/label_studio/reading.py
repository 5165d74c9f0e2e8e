"""Calls that read a project's answers: all of them in chunks, the times of their last changes, or some by id.

The next chunk is asked for while the one before is being worked on. Everything leaves here parsed (`parsing`), with
the time and the counts that tell whether a reader has missed something.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipeline.errors import ServiceError
from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection, RefusedError, ServerFault
from pipeline.label_studio.exports import EXPORT_TASKS, Exports, remove_leftovers
from pipeline.label_studio.parsing import parse_task
from pipeline.records import Chunk, Listed, Project, TaskRead

logger = logging.getLogger(__name__)

EXPORT_FROM = 1_000
"""Answered tasks from which on exports are no slower a door: of 1,000 tasks both take as long, of 10,000 pages take
half as long again. Below that, nothing is made in a project that is only read."""

MOST_UNREAD = 20
"""Tasks of one page that the server may fail over, before it is the server that is at fault."""
UNREAD = "Label Studio fails over the task"
_COUNTED = ("total_annotations", "cancelled_annotations")

_Raw = tuple[list[Any], int | None]
"""Tasks as they came, and the id after which the next chunk starts; None after the last one."""


class ReadingCalls:
    """Part of `door.LabelStudio`."""

    _connection: Connection

    def clock(self, project: Project) -> datetime | None:
        """What the server's own clock said when it last answered, to the second; None where it does not say."""
        if self._connection.server_time is None:
            self.newest_change(project)
        return self._connection.server_time

    def count_answered(self, project: Project, *, after: int = 0, through: int | None = None) -> tuple[int, int]:
        """(tasks that somebody answered or skipped, annotations of theirs that are not skipped), as of now.

        Of those with a larger id than `after`, up to `through`.
        """
        any_of = pages.answered()
        if after or through is not None:
            any_of = pages.both(any_of, pages.ids_between(after, through))
        query = {"filters": {"conjunction": "or", "items": any_of}}
        raw = pages.page(self._connection, project.project_id, query, fields=("id",), size=1, answers=False)
        return int(raw["total"]), int(raw["total_annotations"])

    def newest_change(self, project: Project) -> str:
        """The latest `updated_at` of all tasks, in UTC with microseconds; empty where there is none."""
        query = {"ordering": ["-tasks:updated_at"]}
        fields = ("id", "updated_at")
        raw = pages.page(self._connection, project.project_id, query, fields=fields, size=1, answers=False)
        return time_of(raw["tasks"][0]) if raw["tasks"] else ""

    def all_answered(
        self, project: Project, *, after: int = 0, mark: str = "", resumed: bool = False
    ) -> Generator[Chunk, None, None]:
        """Every task with a larger id than `after` that somebody answered or skipped, by id.

        Through exports where there are many and most of the project is answered, else in pages, or where the server
        does not export (any more). `mark` names this reader: what it left in the project when it died is removed, where
        this reading is `resumed`. Tasks that come meanwhile may be missing.
        """
        through = after
        if resumed:
            try:
                remove_leftovers(self._connection, project.project_id, mark=mark)
            except ServiceError as error:
                logger.warning("unfinished exports cannot be looked for: %s", error)
        left, end = self._exportable(project, after)
        if left:
            try:
                with (
                    Exports(self._connection, project.project_id, mark=mark) as exports,
                    # What is read ahead comes to its end before the exports are removed.
                    closing(self._ahead(project, after, self._exported(project, exports, left, end))) as chunks,
                ):
                    for chunk in chunks:
                        yield chunk
                        through = chunk.through
                return
            except ServiceError as error:
                logger.warning("exports do not work (%s); reading pages from task %d on", error, through)
        yield from self._ahead(project, through, partial(self._page, project, pages.answered()))

    def change_times(
        self, project: Project, *, since: str = "", after: int = 0, through: int | None = None
    ) -> Iterator[list[Listed]]:
        """Pages of the tasks' times and counts, by id: the cheapest list.

        Of every task that has changed after `since`, or, where that is empty, of every one that is answered or skipped.
        Of those with a larger id than `after`, up to `through`.
        """
        any_of = [pages.changed_since(since)] if since else pages.answered()
        last: int | None = after
        while last is not None:
            tasks, last = pages.page_after(
                self._connection,
                project.project_id,
                last,
                any_of=any_of,
                fields=("id", "updated_at", *_COUNTED),
                answers=False,
                through=through,
                size=pages.LISTING_SIZE,
            )
            yield [_listed(task) for task in tasks if _id_of(task)]

    def tasks_by_id(self, project: Project, ids: Sequence[int]) -> Generator[Chunk, None, None]:
        """Those of the tasks that exist, in chunks."""
        for group in pages.groups_that_fit([str(each) for each in ids]):
            any_of = [pages.ids_in([int(each) for each in group])]
            yield from self._ahead(project, 0, partial(self._page, project, any_of))

    def _exportable(self, project: Project, after: int) -> tuple[int, int]:
        """(how many tasks have a larger id than `after`, the largest id); (0, 0) where pages are the faster door."""
        query = {
            "ordering": ["-tasks:id"],
            "filters": {"conjunction": "and", "items": [pages.ids_between(after)]},
        }
        raw = pages.page(self._connection, project.project_id, query, fields=("id",), size=1, answers=False)
        left, answers = int(raw["total"]), int(raw["total_annotations"])
        if min(left, answers) < EXPORT_FROM or 2 * answers < left:
            return 0, 0
        # Several people may have answered the same few tasks; of a single export that costs little.
        if left > EXPORT_TASKS and 2 * self.count_answered(project, after=after)[0] < left:
            return 0, 0
        return left, _id_of(raw["tasks"][0])

    def _page(self, project: Project, any_of: Sequence[pages.Filter], after: int) -> _Raw:
        read = partial(pages.page_after, self._connection, project.project_id)
        try:
            return read(after, any_of=any_of, fields=pages.TASK_FIELDS, answers=True)
        except ServerFault as fault:
            # Label Studio 1.23 takes a task with half a surrogate pair in its data, and answers 500 for every page
            # that it is on ever after.
            listed, following = read(after, any_of=any_of, fields=("id", *_COUNTED), answers=False)
            return self._by_halves(project, listed, fault), following

    def _by_halves(self, project: Project, listed: Sequence[Any], fault: ServerFault) -> list[Any]:
        """The tasks of a page that cannot be read as a whole; what stands for those that cannot be read alone either.

        Raises `fault` where there are many of them: then it is the server that is at fault.
        """
        known = {_id_of(task): task for task in listed}
        waiting = [[int(each) for each in group] for group in pages.groups_that_fit(map(str, known))]
        found: dict[int, Any] = {}
        while waiting:
            group = waiting.pop()
            try:
                tasks, _ = pages.page_after(
                    self._connection,
                    project.project_id,
                    0,
                    any_of=[pages.ids_in(group)],
                    fields=pages.TASK_FIELDS,
                    answers=True,
                    size=len(group),
                    attempts=1 if len(group) > 1 else None,
                )
                found |= {_id_of(task): task for task in tasks}
            except ServerFault:
                half = len(group) // 2
                if half:
                    waiting += [group[:half], group[half:]]
                else:
                    found[group[0]] = _Unread(known[group[0]])
            if sum(isinstance(task, _Unread) for task in found.values()) > MOST_UNREAD:
                raise fault
        return [found[number] for number in sorted(found)]

    def _exported(self, project: Project, exports: Exports, left: int, end: int) -> Callable[[int], _Raw]:
        """What exports the `left` tasks up to `end`, `EXPORT_TASKS` at a time.

        The border of all but the last chunk is looked for first; the answer says how many tasks are left by then.
        """

        def fetch(after: int) -> _Raw:
            nonlocal left
            border = self._nth(project, after, end) if left > EXPORT_TASKS else None
            if border is not None:
                through, left = border
                return exports.between(after, through), through
            return (exports.between(after, end) if after else exports.everything()), None

        return fetch

    def _nth(self, project: Project, after: int, end: int) -> tuple[int, int] | None:
        """(id of the last of the next `EXPORT_TASKS` tasks, how many come after it up to `end`); None without any."""
        query = {
            "ordering": ["tasks:id"],
            "filters": {"conjunction": "and", "items": [pages.ids_between(after, end)]},
        }
        read = partial(pages.page, self._connection, project.project_id, query, fields=("id",), size=1, answers=False)
        try:
            found = read(number=EXPORT_TASKS)
        except RefusedError:  # so many have been deleted since they were counted that there is no such page
            return None
        left = int(found["total"]) - EXPORT_TASKS
        return (_id_of(found["tasks"][0]), left) if left > 0 and found["tasks"] else None

    def _ahead(self, project: Project, after: int, fetch: Callable[[int], _Raw]) -> Generator[Chunk, None, None]:
        """Chunks, of which the next is under way while one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
            future = pool.submit(fetch, after)
            while True:
                raw, following = future.result()
                if following is not None:
                    future = pool.submit(fetch, following)
                read = tuple(_read(task, project) for task in raw)
                through = max((after, following or 0, *(each.task_id for each in read)))
                yield Chunk(tasks=read, through=through)
                if following is None:
                    return
                after = following


def time_of(raw: Any) -> str:
    """A task's `updated_at` in UTC with microseconds; empty where it cannot be read."""
    try:
        time = datetime.fromisoformat(raw["updated_at"])
        return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""


def _id_of(raw: Any) -> int:
    found = raw.get("id") if isinstance(raw, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def _listed(raw: Any) -> Listed:
    answers, skipped = (int(raw.get(name) or 0) for name in _COUNTED)
    return Listed(_id_of(raw), time_of(raw), answers, answers + skipped)


class _Unread:
    """Stands for a task that the server cannot show; what was listed of it is known."""

    def __init__(self, listed: Any) -> None:
        self.task_id = _id_of(listed)
        self.answers = int(listed.get("total_annotations") or 0)
        self.entries = self.answers + int(listed.get("cancelled_annotations") or 0)


def _read(raw: Any, project: Project) -> TaskRead:
    if isinstance(raw, _Unread):
        where = f"task {raw.task_id} of project {project.project_id}"
        return TaskRead(
            task_id=raw.task_id,
            task=None,
            updated_at="",
            answers=raw.answers,
            entries=raw.entries,
            problems=((UNREAD, where),),
        )
    problems: list[tuple[str, str]] = []
    task = parse_task(raw, project, lambda reason, where: problems.append((reason, where)))
    listed = raw.get("annotations") if isinstance(raw, dict) else None
    entries = listed if isinstance(listed, list) else [] if listed is None else [listed]
    skipped = sum(isinstance(each, dict) and each.get("was_cancelled") is True for each in entries)
    return TaskRead(
        task_id=_id_of(raw),
        task=task,
        updated_at=time_of(raw),
        answers=len(entries) - skipped,
        entries=len(entries),
        problems=tuple(problems),
    )
