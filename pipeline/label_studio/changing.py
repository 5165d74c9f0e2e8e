"""Calls that change tasks which are there already, without coming between a task and whoever answers it.

Label Studio writes the whole row of a task that is changed, with the counters as they were when it read the row. An
answer that comes in between is kept, but counted as none: nobody would pull it, and `total_annotations = 0` would say
that the task may be removed. So what is counted is mended after every group of changes, and before others rely on it.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeAlias

from pipeline.errors import ServiceError, ServiceUnavailable
from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection, RefusedError
from pipeline.label_studio.tasks import DELETED_PER_REQUEST, TOUCHED_FIELDS, is_untouched

logger = logging.getLogger(__name__)

CHANGED_AT_A_TIME = 50
"""Tasks between two looks: few, so that little can happen to them in between. They are changed one after the other:
there is no call that changes several, and two or four at a time only take turns in Label Studio's one process, which
then works a quarter or a half longer for the same."""
SCORE_STEP = 0.01
"""A smaller difference in the score, and so in the place in the queue, is not worth a request."""
_BRIEFLY = {"review": "true"}
"""Otherwise Label Studio works out every column of its Data Manager for a task that it changes, and tells none."""
_FIELDS = ("id", "data", "is_labeled", "overlap", "predictions", "completed_by", "was_cancelled", *TOUCHED_FIELDS)

Data: TypeAlias = Mapping[str, Any]
Raw: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskChange:
    """What a task is to become, provided that nobody has touched it."""

    task_id: int
    data: Callable[[Data, datetime | None], Data]
    """The new data, of the old and of the server's time when those were read."""
    served: bool
    """Whether people are served it from now on."""
    prediction: Mapping[str, Any] | None = None
    """`score` and `result` of its one prediction; as it is, where None."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One change, worked out for the task as it is."""

    task_id: int
    data: Data
    is_labeled: bool
    moves: bool
    """Whether `is_labeled` has to change: what an answer has made of it meanwhile is not to be undone."""
    prediction_id: int | None
    """Of the prediction that has to change; None where none has."""
    prediction: Mapping[str, Any]

    def done(self, raw: Raw) -> bool:
        if raw.get("data") != self.data or raw.get("is_labeled") is not self.is_labeled:
            return False
        said = [one for one in raw.get("predictions", ()) if one.get("id") == self.prediction_id]
        return all(one.get(name) == value for one in said for name, value in self.prediction.items())


class ChangingCalls:
    """Part of `door.LabelStudio`."""

    _connection: Connection

    def change_tasks(self, project_id: int, changes: Iterable[TaskChange]) -> set[int]:
        """Changes those of the tasks that nobody has answered, skipped or begun to answer; returns their ids.

        They are looked at right before, and read back. The prediction is changed before the data: whoever compares the
        data sees that a change has not come to its end. Raises `ServiceUnavailable` where answers were lost and a task
        is not as it should be (to change the same ones again harms nothing), `ServiceError` where no answer was lost.
        """
        waiting, done = iter(changes), set[int]()
        while group := list(islice(waiting, CHANGED_AT_A_TIME)):
            done |= self._change_group(project_id, {change.task_id: change for change in group})
        return done

    def _change_group(self, project_id: int, group: Mapping[int, TaskChange]) -> set[int]:
        before = self._as_they_are(project_id, list(group))
        time = self._connection.server_time
        wanted = [_wanted(group[task_id], raw, time) for task_id, raw in before.items() if is_untouched(raw)]
        todo = [one for one in wanted if not one.done(before[one.task_id]) or one.prediction_id is not None]
        lost = [error for error in map(self._change_one, todo) if error is not None]
        after = self._counted(project_id, list(group)) if todo else before
        done = {one.task_id for one in wanted if one.task_id in after and one.done(after[one.task_id])}
        left = {one.task_id for one in wanted} & {task_id for task_id, raw in after.items() if is_untouched(raw)} - done
        if left:
            said = f"{len(left)} of {len(wanted)} changes of tasks in project {project_id}"
            if lost:
                raise ServiceUnavailable(f"{said} were not carried out ({lost[0]}): run it again")
            raise ServiceError(f"Label Studio at {self._connection.url} left {said} undone; look at its log")
        return done

    def _change_one(self, wanted: _Wanted) -> ServiceUnavailable | None:
        """Carries out one change; returns the error of an answer that was lost."""
        what = f"changing task {wanted.task_id}"
        try:
            if wanted.prediction_id is not None:
                path = f"/api/predictions/{wanted.prediction_id}/"
                self._connection.patch(path, what=what, json=dict(wanted.prediction))
            body = {"data": wanted.data, **({"is_labeled": wanted.is_labeled} if wanted.moves else {})}
            self._connection.patch(f"/api/tasks/{wanted.task_id}/", what=what, params=_BRIEFLY, json=body)
        except ServiceUnavailable as error:
            return error
        except RefusedError as error:
            if error.status != 404:  # somebody removed it meanwhile
                raise
        return None

    def mend_counts(self, project_id: int) -> int:
        """Counts answers that Label Studio has kept and not counted; returns of how many tasks."""
        query = {"filters": {"conjunction": "and", "items": pages.miscounted()}}
        mended = set[int]()
        while True:
            raw = pages.page(self._connection, project_id, query, fields=_FIELDS, size=CHANGED_AT_A_TIME, answers=True)
            found = {task["id"]: task for task in raw["tasks"] if task.get("annotations")}
            if not found:
                return len(mended)
            self._mend(found.values(), mended)
            mended |= found.keys()

    def _counted(self, project_id: int, ids: Sequence[int]) -> dict[int, Raw]:
        """These tasks as they are, once all their answers are counted."""
        mended = set[int]()
        while True:
            found = self._as_they_are(project_id, ids)
            wrong = {task_id: task for task_id, task in found.items() if not _counts(task).items() <= task.items()}
            if not wrong:
                return found
            self._mend(wrong.values(), mended)
            mended |= wrong.keys()

    def _mend(self, tasks: Iterable[Raw], before: Collection[int]) -> None:
        for task in tasks:
            if task["id"] in before:
                here = f"Label Studio at {self._connection.url}"
                raise ServiceError(f"{here} does not count the answers to task {task['id']}; look at its log")
            path, what = f"/api/tasks/{task['id']}/", f"counting the answers to task {task['id']}"
            self._connection.patch(path, what=what, json=_counts(task))
            logger.info("an answer to task %d had not been counted; mended", task["id"])

    def there(self, project_id: int, ids: Iterable[int]) -> set[int]:
        """Those of the tasks that the project has."""
        wanted = sorted(set(ids))
        groups = (wanted[at : at + DELETED_PER_REQUEST] for at in range(0, len(wanted), DELETED_PER_REQUEST))
        return {task_id for group in groups for task_id in self._as_they_are(project_id, group)}

    def _as_they_are(self, project_id: int, ids: Sequence[int]) -> dict[int, Raw]:
        query = {"filters": {"conjunction": "and", "items": [pages.ids_in(ids)]}}
        raw = pages.page(self._connection, project_id, query, fields=_FIELDS, size=len(ids), answers=True)
        return {task["id"]: task for task in raw["tasks"] if task["id"] in ids}


def _wanted(change: TaskChange, raw: Raw, time: datetime | None) -> _Wanted:
    data, prediction = change.data(raw["data"], time), dict(change.prediction or {})
    there = next(iter(raw["predictions"]), None)
    same = there is None or (
        all(there.get(name) == value for name, value in prediction.items() if name != "score")
        and abs(_score(there) - prediction.get("score", _score(there))) < SCORE_STEP
    )
    return _Wanted(
        task_id=change.task_id,
        data=data,
        is_labeled=not change.served,
        moves=raw["is_labeled"] is change.served,
        prediction_id=None if same or there is None else there["id"],
        prediction=prediction,
    )


def _score(prediction: Mapping[str, Any]) -> float:
    score = prediction.get("score")
    return float(score) if isinstance(score, int | float) else -1.0


def _counts(task: Raw) -> dict[str, Any]:
    """The counters of a task as its annotations have them; nothing of one that has none."""
    said = [one for one in task["annotations"] if not one.get("was_cancelled")]
    if not task["annotations"]:
        return {}
    counts = {"total_annotations": len(said), "cancelled_annotations": len(task["annotations"]) - len(said)}
    if not said:  # what a skip ends is a setting of the project
        return counts
    people = {one["id"] if one.get("completed_by") is None else one["completed_by"] for one in said}
    return counts | {"is_labeled": len(people) >= task["overlap"]}
