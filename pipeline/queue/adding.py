"""Adding questions: each once, however answers get lost.

The keys that a project has are read once. From then on only what came after is looked up, before every import and after
every answer that was lost: in one project Label Studio gives out ids in the order in which imports become visible, so a
task that another machine adds meanwhile has a larger id than all that are there. On SQLite it gives the ids of the
newest tasks out again once these are deleted: so the newest one that is known has to be there still.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from pipeline.errors import ServiceUnavailable
from pipeline.queue.payload import payload_of
from pipeline.records import Project, ReviewTask

logger = logging.getLogger(__name__)

CHUNK = 1000
"""Tasks per import: one takes about a second."""
SETTLE_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Pauses between look-ups after a lost answer, while the server may still be committing."""


class QueueDoor(Protocol):
    """What adding needs of `pipeline.label_studio.LabelStudio`."""

    def push_keys(self, project_id: int, /, *, after: int, but: Sequence[int] = ()) -> Mapping[int, str]: ...
    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]], /) -> Sequence[int]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PushReport:
    """What came of one push."""

    offered: int
    """Questions that were to be asked, repeats apart."""
    known: int
    """Of those, how many are in the project already, waiting or decided."""
    keys: tuple[str, ...]
    """Of those that were added, in their order; with a dry run, that would be."""
    over_limit: int
    """New ones that were left for later."""
    dry_run: bool

    @property
    def added(self) -> int:
        """How many were added; with a dry run, how many would be."""
        return len(self.keys)

    def line(self) -> str:
        """One line for the terminal; the same questions and project always give the same line."""
        verb = "would add" if self.dry_run else "added"
        return f"{verb} {self.added} of {self.offered} questions ({self.known} known, {self.over_limit} over the limit)"


def push(
    door: QueueDoor,
    project: Project,
    tasks: Iterable[ReviewTask],
    *,
    known: Mapping[int, str] | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    chunk: int = CHUNK,
    pause: Callable[[float], None] = time.sleep,
) -> PushReport:
    """Adds to `project` the questions it lacks, at most `limit`, the lowest rank first.

    Every question is checked before anything is sent (`payload_of`), and looked up right before it is. Raises
    `ServiceUnavailable` where answers keep getting lost: what was added stays, and another push adds the rest.

    known: task id → push key of all that the project has, where that has just been read; it is read here otherwise.
    """
    offered: dict[str, ReviewTask] = {}
    for task in sorted(tasks, key=lambda task: (task.rank, task.push_key)):
        offered.setdefault(task.push_key, task)
    payload = {key: payload_of(task, project) for key, task in offered.items()}
    there = _There(door, project, known or {})
    added: list[str] = []
    repeats = over_limit = 0
    for group in _groups(payload, chunk):
        # A full queue has no room for anything: nothing need be looked up then.
        if limit is None or limit > 0:
            there.look()
        new = [key for key in group if key not in there.keys]
        chosen = new if limit is None else new[: max(0, limit - len(added))]
        repeats, over_limit = repeats + len(group) - len(new), over_limit + len(new) - len(chosen)
        if chosen and not dry_run:
            _send(there, {key: payload[key] for key in chosen}, pause)
            logger.info("queue %r: %d of %d added", project.title, len(added) + len(chosen), len(payload))
        added += chosen
    return PushReport(offered=len(payload), known=repeats, keys=tuple(added), over_limit=over_limit, dry_run=dry_run)


class _There:
    """The keys that a project has, as far as they were looked up."""

    def __init__(self, door: QueueDoor, project: Project, known: Mapping[int, str]) -> None:
        self.door, self.project = door, project
        self.keys = set(known.values())
        self._through = max(known, default=0)
        """Up to this id nothing can come any more."""
        self._newest = known.get(self._through)
        """Key of the task with that id, until it was seen to be still there."""
        self._ours: Sequence[int] = ()
        """Tasks after that one which were sent from here: what others added just before them has smaller ids."""

    def look(self) -> None:
        """Look up what came since the last look."""
        after = self._through if self._newest is None else self._through - 1
        newer = self.door.push_keys(self.project.project_id, after=after, but=self._ours)
        if self._newest is not None and newer.get(self._through) != self._newest:
            newer, self._through = self.door.push_keys(self.project.project_id, after=0), 0
        self.keys.update(newer.values())
        self._through, self._newest, self._ours = max([self._through, *self._ours, *newer]), None, ()

    def lacks(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that have not come since the last look, which stays the last one."""
        newer = set(self.door.push_keys(self.project.project_id, after=self._through).values())
        return [key for key in keys if key not in newer]

    def add(self, chunk: Mapping[str, Mapping[str, Any]]) -> None:
        """Send them in one import."""
        self._ours = self.door.import_tasks(self.project.project_id, list(chunk.values()))
        self.keys.update(chunk)


def _groups(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(keys)
    while group := list(islice(rest, size)):
        yield group


def _send(there: _There, chunk: Mapping[str, Mapping[str, Any]], pause: Callable[[float], None]) -> None:
    """Sends one chunk; after a lost answer, waits for it to appear."""
    try:
        there.add(chunk)
        return
    except ServiceUnavailable as error:
        logger.warning("no answer from Label Studio (%s); looking what arrived", error)
    missing = list(chunk)
    for seconds in SETTLE_PAUSES_S:
        missing = there.lacks(chunk)
        if not missing:
            return
        pause(seconds)
    # Sending it again now could make a second copy, if the first is still being committed.
    raise ServiceUnavailable(
        f"{len(missing)} of {len(chunk)} tasks sent to project {there.project.title!r} have not appeared after a lost "
        "answer: run it again, and what is missing then is sent"
    )
