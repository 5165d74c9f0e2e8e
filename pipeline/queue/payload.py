"""One question as Label Studio is sent it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from math import isfinite
from typing import Any, TypeAlias

from pipeline.errors import DataError
from pipeline.records import UNSHOWN, Project, ReviewTask
from pipeline.review_screen import screen_data

QUEUE_MODEL_VERSION = "fasten"
"""`model_version` of every prediction in the queue, whichever model made it (that one is in the task's data). Label
Studio sets a project's version at the first import and serves, by score, only the predictions of that version: the
second round's questions would wait behind all of the first round's."""

_CHECKED_AT_A_TIME = 1000

Problems: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], Sequence[str]]
"""What is wrong with tasks that are to be sent, as the project's label config has it; nothing, where all is well."""


def check_payloads(tasks: Iterable[ReviewTask], project: Project, problems: Problems) -> None:
    """Raise `DataError`, with the first problem, unless every question can be shown and ordered (`payload_of`, too)."""
    rest = iter(tasks)
    while group := [payload_of(task, project) for task in islice(rest, _CHECKED_AT_A_TIME)]:
        found = problems(group)
        if found:
            raise DataError(f"a question does not fit the screen of project {project.title!r}: {found[0]}")


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
