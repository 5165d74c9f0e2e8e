"""Reading many tasks through the server's export snapshots, a range of ids at a time.

For the first load of a large project the fastest door: a task costs the server two thirds of what it costs in a page
(`benchmarks/data_plane.py`). The server makes each export within the request and keeps it as a file; the range is
said by a tab of the Data Manager, which is all that an export can be filtered by. Both are removed again, and what a
killed pull left of its own is removed by the next one.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
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

    An export is made by one call and read by another, so that the server makes the next one while it is read. What was
    read is removed before the next one is made, and no sooner: on SQLite, removing waits until nobody exports. The last
    ones are removed in the background; when the block ends, nothing is left, or `left_over` is true. `mark` tells this
    machine's tabs and exports from others'. Each call raises `ServiceError` where the server does not export.
    """

    def __init__(self, connection: Connection, project_id: int, *, mark: str) -> None:
        self._connection, self._project_id = connection, project_id
        self._title = f"{TITLE} ({mark})"
        self._what = f"exporting project {project_id}"
        self._tab: int | None = None
        self._there: list[str] = []
        """Addresses of the exports that are still there."""
        self._read: list[str] = []
        """Those of them that have been read."""
        self._done = False
        """Whether every export has been made."""
        self._lock = threading.Lock()
        self._removing = ThreadPoolExecutor(1, thread_name_prefix="removing")
        self._removals: list[Future[None]] = []
        self.left_over = False
        """Whether something could not be removed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read = list(self._there)
        self.no_more()
        self._removing.shutdown()
        if error is None:
            self._wait()

    def everything(self) -> str:
        """Have every task there is exported; → what `read` takes."""
        return self._export({})

    def between(self, after: int, through: int) -> str:
        """Have every task after one id and up to another exported; → what `read` takes."""
        filters = {"conjunction": "and", "items": [pages.ids_between(after, through)]}
        body = {"project": self._project_id, "data": {"title": self._title, "filters": filters}}
        if self._tab is None:
            self._tab = _id(self._connection.post("/api/dm/views/", what=self._what, json=body), self._what)
        else:
            self._connection.patch(f"/api/dm/views/{self._tab}/", what=self._what, json=body)
        return self._export({"task_filter_options": {"view": self._tab}})

    def no_more(self) -> None:
        """Every export that is wanted has been made: removing begins."""
        self._done = True
        if self._tab is not None:
            self._in_background(f"/api/dm/views/{self._tab}/")
            self._tab = None
        self._remove_read()

    def read(self, export: str) -> list[Any]:
        """The raw JSON of the tasks of an export, by ascending id. It can be read once."""
        try:
            tasks = self._connection.get(f"{export}/download", what=self._what, params={"exportType": "JSON"})
        finally:
            with self._lock:
                self._read.append(export)
            if self._done:
                self._remove_read()
        if not isinstance(tasks, list):
            here = f"Label Studio at {self._connection.url}"
            raise ServiceError(f"{here} exported something else than a list of tasks")
        return sorted(tasks, key=lambda task: task["id"] if isinstance(task, dict) and _is_id(task.get("id")) else 0)

    def _export(self, chosen: Mapping[str, Any]) -> str:
        self._remove_read()
        self._wait()
        exports = f"/api/projects/{self._project_id}/exports/"
        options = {"title": self._title, "serialization_options": _IDS_ONLY, **chosen}
        made = self._connection.post(exports, what=self._what, json=options)
        address = f"{exports}{_id(made, self._what)}"
        self._there.append(address)
        if made.get("status") != "completed":
            here = f"Label Studio at {self._connection.url}"
            raise ServiceError(f"{here} did not complete an export of project {self._project_id}")
        return address

    def _remove_read(self) -> None:
        with self._lock:
            over, self._read = self._read, []
            for export in over:
                self._there.remove(export)
                self._in_background(export)

    def _wait(self) -> None:
        """Until what is being removed is gone, or could not be removed."""
        while self._removals:
            error = self._removals.pop(0).exception()
            if error is not None and not isinstance(error, ServiceError):
                raise error
            self.left_over |= error is not None

    def _in_background(self, address: str) -> None:
        self._removals.append(self._removing.submit(partial(self._connection.delete, address, what=self._what)))


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
