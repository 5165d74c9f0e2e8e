"""Carrying out changes of questions that are in the queue already."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from pipeline.label_studio import TaskChange
from pipeline.queue.changes import Change
from pipeline.queue.payload import payload_of
from pipeline.records import EARLIER, UNSHOWN, WITHDRAWN, WITHDRAWN_BY, Project

logger = logging.getLogger(__name__)

MOST_EARLIER = 5
"""Suggestions that a question remembers: those of five days, with a round a day, and a task is reserved for one."""


class RetiringDoor(Protocol):
    """What retiring needs of `pipeline.label_studio.LabelStudio`."""

    def change_tasks(self, project_id: int, changes: Iterable[TaskChange], /) -> set[int]: ...


class ChangingDoor(RetiringDoor, Protocol):
    """What changing needs of it."""

    def delete_tasks(self, project_id: int, ids: Iterable[int], /) -> int: ...
    def there(self, project_id: int, ids: Iterable[int], /) -> set[int]: ...


def carry_out(door: ChangingDoor, project: Project, changes: Sequence[Change], *, run_key: str) -> list[Change]:
    """Updates, retires, revives and deletes as planned (what is added is not done here); returns what was done.

    Left out is what somebody has touched meanwhile. Raises `ServiceUnavailable` where answers got lost and something is
    still to be done: a later push does it.
    """
    edits = {
        change.task_id: _edit(change, project, run_key)
        for change in changes
        if change.task_id is not None and change.action != "delete"
    }
    changed = door.change_tasks(project.project_id, edits.values()) if edits else set()
    done = [change for change in changes if change.task_id in changed and change.action != "delete"]
    ending = [change for change in changes if change.action == "delete"]
    if ending:
        ids = [one.task_id for one in ending if one.task_id is not None]
        left = set() if door.delete_tasks(project.project_id, ids) == len(ids) else door.there(project.project_id, ids)
        done += [one for one in ending if one.task_id not in left]
    if len(done) < len(changes):
        logger.info(
            "%d of %d questions stay as they are: somebody has begun them", len(changes) - len(done), len(changes)
        )
    return done


def retire(door: RetiringDoor, project: Project, task_ids: Iterable[int], *, why: str, run_key: str) -> set[int]:
    """Serves these questions no longer; returns the ids of those that nobody has touched meanwhile.

    A push removes them a day later. Raises as `carry_out`.
    """
    return door.change_tasks(project.project_id, [_retiring(task_id, why, run_key) for task_id in task_ids])


def _retiring(task_id: int, why: str, run_key: str) -> TaskChange:
    marks = {WITHDRAWN: why, WITHDRAWN_BY: run_key}
    return TaskChange(task_id=task_id, data=lambda old, _: {**old, **marks}, served=False)


def _edit(change: Change, project: Project, run_key: str) -> TaskChange:
    assert change.task_id is not None
    if change.task is None:
        return _retiring(change.task_id, change.why, run_key)
    payload = payload_of(change.task, project)
    [prediction] = payload["predictions"]
    field = project.control.image_field
    unshown = change.task.asked_as in UNSHOWN
    # Who drew it at random is not who has found its image elsewhere. What was taken back is drawn anew, and of a check
    # the answer is held against what the run that drew it has changed.
    told = (field, "asked_by_run") if change.action == "revive" else (field,)

    def data(old: Mapping[str, Any], time: datetime | None) -> dict[str, Any]:
        if unshown:
            kept = {name: value for name, value in old.items() if name not in (WITHDRAWN, WITHDRAWN_BY)}
            return {**kept, **{name: payload["data"][name] for name in told}}
        return {**payload["data"], **_earlier(old, payload["data"], time)}

    return TaskChange(
        task_id=change.task_id,
        data=data,
        served=True,
        prediction=None if unshown else {"score": prediction["score"], "result": prediction["result"]},
    )


def _earlier(old: Mapping[str, Any], new: Mapping[str, Any], time: datetime | None) -> dict[str, Any]:
    """What the question has suggested so far: who has it open answers that (`pipeline.snapshot.question`)."""
    known = old.get(EARLIER)
    said = list(known) if isinstance(known, list) else []
    names = ("model_label", "asked_by_run")
    if any(old.get(name) != new.get(name) for name in names):
        until = (time or datetime.now(UTC)).isoformat()
        said.append({"until": until, **{name: old.get(name) for name in names}})
    return {EARLIER: said[-MOST_EARLIER:]} if said else {}
