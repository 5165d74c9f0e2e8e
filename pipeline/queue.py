"""The reviewers' queue: questions go into the review project once each, the most valuable first.

Label Studio enforces no unique keys, commits after a client has given up waiting, and counts silently; so every
question has a deterministic key, keys are looked up before they are sent and again after every answer that was lost,
and what was counted is compared with what was sent. One writer per review project is assumed.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

from pipeline.errors import DataError, ServiceUnavailable
from pipeline.records import UNSHOWN, AskedAs, Project, ReviewTask
from pipeline.review_screen import screen_data

logger = logging.getLogger(__name__)

QUEUE_MODEL_VERSION = "fasten"
"""`model_version` of every prediction in the queue, whichever model made it (that one is in the task's data). Label
Studio sets a project's version at the first import and serves, by score, only the predictions of that version: the
second round's questions would wait behind all of the first round's."""
CHUNK = 1000
"""Tasks per import: one takes about a second."""
SETTLE_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Pauses between look-ups after a lost answer, while the server may still be committing."""
_ONCE: frozenset[AskedAs] = frozenset({"audit", "check", "targeted"})
_AGAIN: frozenset[AskedAs] = frozenset({"tie_break", "audit"})
"""After answers that decide nothing. A sample that was drawn at random is asked about as before: nothing is shown."""
_RECHECKS: frozenset[AskedAs] = frozenset({"recheck"})
MOST_TIE_BREAKS = 20
"""A sample is not asked about more often than that."""


class QueueDoor(Protocol):
    """What the queue needs of `pipeline.label_studio.LabelStudio`."""

    def find_push_keys(self, project_id: int, keys: Iterable[str], /) -> set[str]: ...
    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]], /) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PushReport:
    """What came of one push."""

    offered: int
    """Questions that were to be asked, repeats apart."""
    known: int
    """Of those, how many are in the project already, waiting or decided."""
    added: int
    """How many were added; with a dry run, how many would be."""
    over_limit: int
    """New ones that were left for later."""
    dry_run: bool

    def line(self) -> str:
        """One line for the terminal; the same questions and project always give the same line."""
        verb = "would add" if self.dry_run else "added"
        return f"{verb} {self.added} of {self.offered} questions ({self.known} known, {self.over_limit} over the limit)"


def push_key(labels_project_id: int, sample_id: str, asked: str = "") -> str:
    """24 hexadecimal digits, the same for the same question about the same sample of the same project for ever.

    `asked` is empty for the one time that a sample is asked about (audit, check or targeted), `tie_break/3` after three
    answers that decide nothing, `recheck` where the model contradicts a decision.
    """
    parts = (str(labels_project_id), sample_id, *([asked] if asked else []))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def kinds_of_key(key: str, labels_project_id: int, sample_id: str) -> frozenset[AskedAs]:
    """The kinds of question about that sample that have this push key; none, where it is not one of ours."""
    if key == push_key(labels_project_id, sample_id):
        return _ONCE
    if key == push_key(labels_project_id, sample_id, "recheck"):
        return _RECHECKS
    if any(key == push_key(labels_project_id, sample_id, f"tie_break/{n}") for n in range(1, MOST_TIE_BREAKS + 1)):
        return _AGAIN
    return frozenset()


def push(
    door: QueueDoor,
    project: Project,
    tasks: Iterable[ReviewTask],
    *,
    limit: int | None = None,
    dry_run: bool = False,
    chunk: int = CHUNK,
    pause: Callable[[float], None] = time.sleep,
) -> PushReport:
    """Adds to `project` the questions it lacks, at most `limit`, the lowest rank first.

    Every question is checked against the label config before anything is sent (`DataError`). Raises
    `ServiceUnavailable` where answers keep getting lost: what was added stays, and another push adds the rest.
    """
    offered: dict[str, ReviewTask] = {}
    for task in sorted(tasks, key=lambda task: (task.rank, task.push_key)):
        offered.setdefault(task.push_key, task)
    ranked = offered.values()
    payload = {task.push_key: payload_of(task, project) for task in ranked}
    # A full queue has no room for anything: nothing need be looked up then.
    known = door.find_push_keys(project.project_id, payload) if limit is None or limit > 0 else set()
    new = [key for key in payload if key not in known]
    chosen = new if limit is None else new[: max(0, limit)]
    if not dry_run:
        for start in range(0, len(chosen), chunk):
            _send(door, project, {key: payload[key] for key in chosen[start : start + chunk]}, pause)
            logger.info("queue %r: %d of %d added", project.title, min(start + chunk, len(chosen)), len(chosen))
    return PushReport(
        offered=len(payload),
        known=len(payload) - len(new),
        added=len(chosen),
        over_limit=len(new) - len(chosen),
        dry_run=dry_run,
    )


def payload_of(task: ReviewTask, project: Project) -> dict[str, Any]:
    """One question as Label Studio imports it; raises `DataError` where the screen could not show or order it.

    Of a question that is to lead nobody (`UNSHOWN`), nothing that the model or the annotators said is sent: reviewers
    can read a task's whole data. Every question has a prediction, if need be one that says nothing, since "Uncertainty
    sampling" serves by its score, lowest first, and tasks without one last.
    """
    control = project.control
    where = f"question about sample {task.sample_id!r}"
    leads = task.asked_as not in UNSHOWN
    suggested = leads and task.model_label != ""
    if suggested and task.model_label not in control.classes:
        raise DataError(f"{where} suggests {task.model_label!r}, which is no class of project {project.title!r}")
    for name, value in (("confidence", task.confidence), ("priority", task.priority), ("rank", task.rank)):
        if not isfinite(value) or not 0 <= value <= 1:
            raise DataError(f"{where} has {name} {value}, which is not between 0 and 1")
    if not task.image_url or not task.push_key:
        raise DataError(f"{where} has no image URL or no push key")
    data: dict[str, Any] = {
        **(task.extra if leads else {}),
        control.image_field: task.image_url,
        "sample_id": task.sample_id,
        "push_key": task.push_key,
        "asked_as": task.asked_as,
        "asked_by_run": task.run_key,
        **screen_data(task),
    }
    result = []
    if suggested:
        data |= {
            "model_label": task.model_label,
            "confidence": round(task.confidence, 4),
            "priority": round(task.priority, 6),
            "model_version": task.model_version,
        }
        chosen = {"choices": [task.model_label]}
        result = [{"from_name": control.name, "to_name": control.to_name, "type": "choices", "value": chosen}]
    prediction = {"model_version": QUEUE_MODEL_VERSION, "score": task.rank, "result": result}
    return {"data": data, "predictions": [prediction]}


def _send(
    door: QueueDoor, project: Project, chunk: Mapping[str, Mapping[str, Any]], pause: Callable[[float], None]
) -> None:
    """Sends one chunk; after a lost answer, waits for it to appear."""
    try:
        door.import_tasks(project.project_id, list(chunk.values()))
        return
    except ServiceUnavailable as error:
        logger.warning("no answer from Label Studio (%s); looking what arrived", error)
    missing = list(chunk)
    for seconds in SETTLE_PAUSES_S:
        there = door.find_push_keys(project.project_id, missing)
        missing = [key for key in missing if key not in there]
        if not missing:
            return
        pause(seconds)
    # Sending it again now could make a second copy, if the first is still being committed.
    raise ServiceUnavailable(
        f"{len(missing)} of {len(chunk)} tasks sent to project {project.title!r} have not appeared after a lost "
        "answer: run it again, and what is missing then is sent"
    )
