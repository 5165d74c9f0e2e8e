"""Reading many tasks through the server's export snapshots, a range of ids at a time.

For the first load of a large project the fastest door: a task costs the server two thirds of what it costs in a page
(`benchmarks/data_plane.py`). The server makes each export within the request and keeps it as a file; the range is
said by a tab of the Data Manager, which is all that an export can be filtered by. Both are removed again, and what a
killed pull left of its own is removed by the next one.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ServiceError
from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection

EXPORT_TASKS = 5_000
"""Tasks per export: some seconds of the server's time, and some megabytes."""
TITLE = "fasten is reading this project"
"""Begins the name of every tab and export that is made here."""
_IDS_ONLY = {
    "drafts": {"only_id": True},
    "predictions": {"only_id": True},
    "annotations__completed_by": {"only_id": True},
    "interpolate_key_frames": False,
}


class Exports:
    """Exports of one project, through one tab that is theirs until the `with` block ends.

    `mark` tells this machine's tabs and exports from others'. Each call raises `ServiceError` where the server does
    not export.
    """

    def __init__(self, connection: Connection, project_id: int, *, mark: str) -> None:
        self._connection, self._project_id = connection, project_id
        self._title = f"{TITLE} ({mark})"
        self._what = f"exporting project {project_id}"
        self._tab: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tab is not None:
            self._connection.delete(f"/api/dm/views/{self._tab}/", what=self._what)

    def everything(self) -> list[Any]:
        """The raw JSON of every task there is, by ascending id."""
        return self._export({})

    def between(self, after: int, through: int) -> list[Any]:
        """The raw JSON of every task after one id and up to another, by ascending id."""
        filters = {"conjunction": "and", "items": [pages.ids_between(after, through)]}
        body = {"project": self._project_id, "data": {"title": self._title, "filters": filters}}
        if self._tab is None:
            self._tab = _id(self._connection.post("/api/dm/views/", what=self._what, json=body), self._what)
        else:
            self._connection.patch(f"/api/dm/views/{self._tab}/", what=self._what, json=body)
        return self._export({"task_filter_options": {"view": self._tab}})

    def _export(self, chosen: Mapping[str, Any]) -> list[Any]:
        exports = f"/api/projects/{self._project_id}/exports/"
        options = {"title": self._title, "serialization_options": _IDS_ONLY, **chosen}
        made = self._connection.post(exports, what=self._what, json=options)
        address = f"{exports}{_id(made, self._what)}"
        here = f"Label Studio at {self._connection.url}"
        try:
            if made.get("status") != "completed":
                raise ServiceError(f"{here} did not complete an export of project {self._project_id}")
            tasks = self._connection.get(f"{address}/download", what=self._what, params={"exportType": "JSON"})
        finally:
            self._connection.delete(address, what=self._what)
        if not isinstance(tasks, list):
            raise ServiceError(f"{here} exported something else than a list of tasks")
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


def _id(raw: Any, what: str) -> int:
    if not isinstance(raw, dict) or not _is_id(raw.get("id")):
        raise ServiceError(f"Label Studio answered without an id while {what}")
    return int(raw["id"])


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
