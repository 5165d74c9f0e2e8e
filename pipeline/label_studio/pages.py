"""Reading a project's tasks page by page through the Data Manager's filters.

Pages follow the task id instead of a page number, so that tasks which come or go meanwhile neither hide others nor
show them twice. Only named fields are asked for: everything together costs the server two to four times as much.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote_plus

from pipeline.errors import ServiceError
from pipeline.label_studio.connection import Connection

QUERY_BYTES = 3000
"""Limit on an encoded filter: gunicorn and uwsgi refuse request lines over 4,094 bytes unless told otherwise."""

TASK_FIELDS = (
    "id", "data", "annotations", "result", "completed_by", "ground_truth", "was_cancelled", "lead_time", "created_at",
    "updated_at",
)  # fmt: skip
"""What is read of a task and, by the same names, of its annotations."""
LISTING_SIZE = 10_000
"""Tasks per request where only ids and times are asked for."""

Filter = dict[str, Any]


def answered() -> list[Filter]:
    """Filters, either of which holds for a task that somebody answered or skipped."""
    return [_number(field, "greater", 0) for field in ("total_annotations", "cancelled_annotations")]


def changed_since(time: str) -> Filter:
    """Filter: the task or one of its annotations has changed after `time` (ISO 8601 in UTC, with microseconds)."""
    return {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": time}


def ids_between(after: int, through: int | None = None) -> Filter:
    """Filter: the task's id is larger than one, and at most another."""
    if through is None:
        return _number("id", "greater", after)
    return {**_number("id", "in", 0), "value": {"min": after + 1, "max": through}}


def both(any_of: Sequence[Filter], this: Filter) -> list[Filter]:
    """Filters, any of which holds for a task for which one of `any_of` holds, and `this`."""
    return [{**one, "child_filter": this} for one in any_of]  # a child belongs to its parent


def ids_outside(first: int, last: int) -> Filter:
    """Filter: the task's id is none from `first` through `last`."""
    return {"filter": "filter:tasks:id", "operator": "not_in", "type": "Number", "value": {"min": first, "max": last}}


def unanswered() -> list[Filter]:
    """Filters, all of which hold for a task without an answer."""
    return [_number("total_annotations", "equal", 0)]


def untouched() -> list[Filter]:
    """Filters, all of which hold for a task that nobody has answered, skipped or begun to answer.

    The counters alone are not enough: see `miscounted`.
    """
    return [*unanswered(), *_none_counted_as_skipped(), _annotated(exists=False), _drafted(exists=False)]


def miscounted() -> list[Filter]:
    """Filters, all of which hold for a task with an answer that Label Studio has not counted.

    It writes whole rows where a task is changed: an answer that came between its reading and its writing is kept, but
    the task's counters are again what they were before.
    """
    return [*unanswered(), *_none_counted_as_skipped(), _annotated(exists=True)]


def _none_counted_as_skipped() -> list[Filter]:
    return [_number("cancelled_annotations", "equal", 0)]


def _annotated(*, exists: bool) -> Filter:
    return {"filter": "filter:tasks:annotations_ids", "operator": "empty", "type": "Number", "value": not exists}


def drafted() -> Filter:
    """Filter: somebody has begun to answer the task, and not submitted it yet."""
    return _drafted(exists=True)


def _drafted(*, exists: bool) -> Filter:
    return {"filter": "filter:tasks:draft_exists", "operator": "equal", "type": "Boolean", "value": exists}


def data_in(field: str, values: Sequence[str]) -> Filter:
    """Filter: `data[field]` is one of `values`."""
    return {"filter": f"filter:tasks:data.{field}", "operator": "in_list", "type": "List", "value": list(values)}


def ids_in(ids: Sequence[int]) -> Filter:
    """Filter: the task's id is one of `ids`."""
    return {"filter": "filter:tasks:id", "operator": "in_list", "type": "List", "value": list(ids)}


def groups_that_fit(values: Iterable[str], limit: int = QUERY_BYTES) -> Iterator[list[str]]:
    """`values` in groups whose filter fits into one request line."""
    group: list[str] = []
    room = limit
    for value in values:
        size = len(_encoded(json.dumps(value))) + 6
        if group and size > room:
            yield group
            group, room = [], limit
        group.append(value)
        room -= size
    if group:
        yield group


def walk(
    connection: Connection,
    project_id: int,
    *,
    any_of: Sequence[Filter],
    fields: Sequence[str],
    answers: bool,
    after: int = 0,
) -> Iterator[Any]:
    """The raw JSON of every task that passes one of the filters (all tasks, if there are none), by ascending id.

    Those with a larger id than `after`.
    """
    last: int | None = after
    while last is not None:
        tasks, last = page_after(connection, project_id, last, any_of=any_of, fields=fields, answers=answers)
        yield from tasks


def page_after(
    connection: Connection,
    project_id: int,
    after: int,
    *,
    any_of: Sequence[Filter],
    fields: Sequence[str],
    answers: bool,
    through: int | None = None,
    size: int | None = None,
    attempts: int | None = None,
) -> tuple[list[Any], int | None]:
    """(the next tasks with a larger id than `after`, where the page after them starts); None where there is none."""
    later = ids_between(after, through)
    items = both(any_of, later) if any_of else [later]
    query = {"ordering": ["tasks:id"], "filters": {"conjunction": "or", "items": items}}
    size = size or connection.config.page_size
    raw = page(connection, project_id, query, fields=fields, size=size, answers=answers, attempts=attempts)
    tasks: list[Any] = raw["tasks"]
    if len(tasks) >= raw["total"]:  # not "shorter than asked": a server may allow smaller pages only
        return tasks, None
    ids = [task["id"] for task in tasks if isinstance(task, dict) and isinstance(task.get("id"), int)]
    if not ids or max(ids) <= after:
        raise ServiceError(f"Label Studio does not page through project {project_id}: no task after id {after}")
    return tasks, max(ids)


def page(
    connection: Connection,
    project_id: int,
    query: Mapping[str, Any],
    *,
    fields: Sequence[str],
    size: int,
    answers: bool,
    number: int = 1,
    attempts: int | None = None,
) -> Mapping[str, Any]:
    """One answer of `GET /api/tasks`: `tasks`, `total`, `total_annotations`, of which the shape is checked."""
    params: list[tuple[str, Any]] = [
        ("project", project_id),
        ("page", number),
        ("page_size", size),
        ("fields", "all" if answers else "task_only"),
        ("resolve_uri", "false"),  # the URL as it was entered, so that it means the same in a year
        ("query", json.dumps(query, separators=(",", ":")).replace("%", "%25")),  # the server decodes it twice
        *(("include", field) for field in fields),
    ]
    raw = connection.get("/api/tasks/", what=f"reading tasks of project {project_id}", params=params, attempts=attempts)
    totals = (raw.get("total"), raw.get("total_annotations")) if isinstance(raw, dict) else (None, None)
    if not all(isinstance(total, int) for total in totals) or not isinstance(raw.get("tasks"), list):
        raise ServiceError(f"Label Studio answered without a list of tasks for project {project_id}")
    found: Mapping[str, Any] = raw
    return found


def _number(field: str, operator: Literal["equal", "greater", "in"], value: int) -> Filter:
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": "Number", "value": value}


def _encoded(text: str) -> str:
    return quote_plus(text.replace("%", "%25"))
