"""Reading many tasks through the server's export snapshots, a range of ids at a time.

For the first load of a large project the fastest door: a task costs the server two thirds of what it costs in a page
(`benchmarks/data_plane.py`). The server makes each export within the request and keeps it as a file; the range is
said by a tab of the Data Manager, which is all that an export can be filtered by. Both are removed right after, and
what a killed pull left of its own is removed by the next one.
"""

import logging
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ServiceError
from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection

logger = logging.getLogger(__name__)

EXPORT_TASKS = 5_000
"""Tasks per export: some seconds of the server's time, and some megabytes."""
TITLE = "fasten is reading this project"
"""Begins the name of every tab and export that is made here."""


def export_range(connection: Connection, project_id: int, after: int, through: int | None, *, mark: str) -> list[Any]:
    """The raw JSON of every task after one id and up to another (None: to the end), by ascending id.

    `mark` tells this machine's tabs and exports from others'. Raises `ServiceError` where the server does not export.
    """
    what = f"exporting project {project_id}"
    title = f"{TITLE} ({mark})"
    view = export = None
    try:
        filters = {"conjunction": "and", "items": pages.ids_between(after, through)}
        body = {"project": project_id, "data": {"title": title, "filters": filters}}
        view = _id(connection.post("/api/dm/views/", what=what, json=body), what)
        raw = connection.post(f"/api/projects/{project_id}/exports/", what=what, json=_options(title, view))
        export = _id(raw, what)
        address = f"/api/projects/{project_id}/exports/{export}"
        status = connection.get(address, what=what)
        if not isinstance(status, dict) or status.get("status") != "completed":
            raise ServiceError(f"Label Studio at {connection.url} did not complete an export of project {project_id}")
        tasks = connection.get(f"{address}/download", what=what, params={"exportType": "JSON"})
    finally:
        if export is not None:
            connection.delete(f"/api/projects/{project_id}/exports/{export}", what=what)
        if view is not None:
            connection.delete(f"/api/dm/views/{view}/", what=what)
    if not isinstance(tasks, list):
        raise ServiceError(f"Label Studio at {connection.url} exported something else than a list of tasks")
    return sorted(tasks, key=lambda task: task["id"] if isinstance(task, dict) and _is_id(task.get("id")) else 0)


def remove_leftovers(connection: Connection, project_id: int, *, mark: str) -> None:
    """Remove the tabs and exports that a pull of this machine left behind when it died."""
    what = f"looking for unfinished exports of project {project_id}"
    title = f"{TITLE} ({mark})"
    views = connection.get("/api/dm/views/", what=what, params={"project": project_id})
    for view in views if isinstance(views, list) else []:
        if isinstance(view, dict) and isinstance(view.get("data"), dict) and view["data"].get("title") == title:
            connection.delete(f"/api/dm/views/{view['id']}/", what=what)
    exports = connection.get(f"/api/projects/{project_id}/exports/", what=what)
    for export in exports if isinstance(exports, list) else []:
        if isinstance(export, dict) and export.get("title") == title:
            connection.delete(f"/api/projects/{project_id}/exports/{export['id']}", what=what)


def _options(title: str, view: int) -> Mapping[str, Any]:
    ids_only = {"only_id": True}
    return {
        "title": title,
        "task_filter_options": {"view": view},
        "serialization_options": {
            "drafts": ids_only,
            "predictions": ids_only,
            "annotations__completed_by": ids_only,
            "interpolate_key_frames": False,
        },
    }


def _id(raw: Any, what: str) -> int:
    if not isinstance(raw, dict) or not _is_id(raw.get("id")):
        raise ServiceError(f"Label Studio answered without an id while {what}")
    return int(raw["id"])


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
