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
from typing import Any, NamedTuple

from pipeline.errors import ServiceError
from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection, RefusedError, ServerFault
from pipeline.label_studio.exports import EXPORT_TASKS, Exports, remove_leftovers
from pipeline.label_studio.parsing import parse_task
from pipeline.records import Chunk, Listed, Project, ProjectState, Recent, TaskRead

logger = logging.getLogger(__name__)

EXPORT_FROM = 1_000
"""Answered tasks from which on exports are no slower a door: of 1,000 tasks both take as long, of 10,000 pages take
half as long again. Below that, nothing is made in a project that is only read."""
SMALL = 1_000
"""Tasks of the last of several exports. While the server makes one, the work on the one before is done; what is done on
the last one takes as long as it takes. Up to three times as many are one export: another costs a tenth of a second."""
RECENT = 20
"""Tasks that `recent` lists."""

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
        self, project: Project, *, after: int = 0, mark: str = "", resumed: bool = False,
        state: ProjectState | None = None,
    ) -> Generator[Chunk, None, None]:  # fmt: skip
        """Every task with a larger id than `after` that somebody answered or skipped, by id.

        Through exports where there are many and most of the project is answered, else in pages, or where the server
        does not export (any more). `mark` names this reader: what it left in the project when it died is removed, where
        this reading is `resumed`; `state` is how the project looks, as far as that is known. Tasks that come meanwhile
        may be missing.
        """
        if resumed:
            self._tidy(project, mark)
        through, is_read, is_tidy = after, False, not resumed
        left, end = self._exportable(project, after, state)
        if left:
            exports = Exports(self._connection, project.project_id, mark=mark)
            try:
                # What is made ahead comes to its end before the exports are removed.
                with exports, closing(self._exported(project, exports, after, left, end)) as chunks:
                    for chunk in chunks:
                        yield chunk
                        through = chunk.through
                is_read, is_tidy = True, is_tidy and not exports.left_over
            except ServiceError as error:
                logger.warning("exports do not work (%s); reading pages from task %d on", error, through)
                is_tidy = False
        if not is_read:
            yield from self._ahead(project, through, partial(self._page, project, pages.answered()))
        if not is_tidy:
            # Also what the server was still making for a dead pull when this one began.
            self._tidy(project, mark)

    def _tidy(self, project: Project, mark: str) -> None:
        try:
            remove_leftovers(self._connection, project.project_id, mark=mark)
        except ServiceError as error:
            logger.warning("unfinished exports cannot be removed: %s", error)

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

    def recent(self, project: Project) -> Recent:
        """The answered tasks that have changed last, and the counts of all: one answer, of one moment."""
        query = {"ordering": ["-tasks:updated_at"], "filters": {"conjunction": "or", "items": pages.answered()}}
        fields = ("id", "updated_at", *_COUNTED)
        raw = pages.page(self._connection, project.project_id, query, fields=fields, size=RECENT, answers=False)
        return Recent(
            tasks=tuple(_listed(task) for task in raw["tasks"] if _id_of(task)),
            counts=(int(raw["total"]), int(raw["total_annotations"])),
            clock=self._connection.server_time,
        )

    def _exportable(self, project: Project, after: int, state: ProjectState | None) -> tuple[int, int]:
        """(how many tasks have a larger id than `after`, the largest id); (0, 0) where pages are the faster door.

        The largest id is 0 where no border is to be looked for. Nothing is asked where `state` tells all of this.
        """
        if state is not None and not after and 0 < state.tasks <= min(3 * SMALL, EXPORT_TASKS):
            return (state.tasks, 0) if _fit_for_exports(state.tasks, state.annotations) else (0, 0)
        query = {
            "ordering": ["-tasks:id"],
            "filters": {"conjunction": "and", "items": [pages.ids_between(after)]},
        }
        raw = pages.page(self._connection, project.project_id, query, fields=("id",), size=1, answers=False)
        left, answers = int(raw["total"]), int(raw["total_annotations"])
        if not _fit_for_exports(left, answers):
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

    def _exported(
        self, project: Project, exports: Exports, after: int, left: int, end: int
    ) -> Generator[Chunk, None, None]:
        """What exports say of the `left` tasks after an id and up to `end`, `EXPORT_TASKS` at a time.

        The border of all but the last chunk is looked for first; the answer says how many tasks are left by then. While
        one export is downloaded and used, the server makes the next one.
        """

        def make(after: int, border: _Border | None) -> tuple[str, _Border | None]:
            if border is None:
                export = exports.between(after, end) if after else exports.everything()
                exports.no_more()
                return export, None
            export = exports.between(after, border.through)
            return export, self._border(project, border.through, border.left, end)

        border = self._border(project, after, left, end)
        with ThreadPoolExecutor(1, thread_name_prefix="exporting") as pool:
            making = pool.submit(make, after, border)
            while True:
                export, following = making.result()
                if border is not None:
                    making = pool.submit(make, border.through, following)
                chunk = _chunk(exports.read(export), project, after, None if border is None else border.through)
                yield chunk
                if border is None:
                    return
                after, border = border.through, following

    def _border(self, project: Project, after: int, left: int, end: int) -> "_Border | None":
        """Where the next chunk of the `left` tasks after an id and up to `end` ends; None where it is the last one."""
        number = EXPORT_TASKS if left > EXPORT_TASKS else left - SMALL if left > 3 * SMALL else 0
        if not number:
            return None
        query = {
            "ordering": ["tasks:id"],
            "filters": {"conjunction": "and", "items": [pages.ids_between(after, end)]},
        }
        read = partial(pages.page, self._connection, project.project_id, query, fields=("id",), size=1, answers=False)
        try:
            found = read(number=number)
        except RefusedError:  # so many have been deleted since they were counted that there is no such page
            return None
        rest = int(found["total"]) - number
        return _Border(_id_of(found["tasks"][0]), rest) if rest > 0 and found["tasks"] else None

    def _ahead(self, project: Project, after: int, fetch: Callable[[int], _Raw]) -> Generator[Chunk, None, None]:
        """Chunks, of which the next is under way while one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
            future = pool.submit(fetch, after)
            while True:
                raw, following = future.result()
                if following is not None:
                    future = pool.submit(fetch, following)
                yield _chunk(raw, project, after, following)
                if following is None:
                    return
                after = following


class _Border(NamedTuple):
    """Between two chunks."""

    through: int
    """Id of the last task of the first one."""
    left: int
    """How many tasks come after it."""


def _fit_for_exports(tasks: int, answers: int) -> bool:
    return min(tasks, answers) >= EXPORT_FROM and 2 * answers >= tasks


def _chunk(raw: list[Any], project: Project, after: int, following: int | None) -> Chunk:
    """Tasks as they came, parsed; `following` is the id after which the next chunk starts."""
    read = tuple(_read(task, project) for task in raw)
    through = max((after, following or 0, *(each.task_id for each in read)))
    return Chunk(tasks=read, through=through, last=following is None)


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
