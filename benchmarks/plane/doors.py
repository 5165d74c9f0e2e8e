"""Every way in which Label Studio hands out a project's answers, read by a bare client that keeps nothing.

What comes is counted and thrown away: what remains is the server's own time and the wire's.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from benchmarks.plane.projects import Filled, post
from pipeline.label_studio.exports import EXPORT_TASKS
from pipeline.label_studio.pages import TASK_FIELDS

_LEAN = {
    "serialization_options": {
        "drafts": {"only_id": True},
        "predictions": {"only_id": True},
        "annotations__completed_by": {"only_id": True},
        "interpolate_key_frames": False,
    }
}


@dataclass(slots=True)
class Wire:
    """Reads and counts."""

    client: httpx.Client
    requests: int = 0
    received: int = 0

    def read(self, path: str, **params: Any) -> bytes:
        """The body of a GET, whole."""
        self.requests += 1
        body = bytearray()
        with self.client.stream("GET", path, params=params) as response:
            response.raise_for_status()
            for block in response.iter_raw():
                body += block
        self.received += len(body)
        return bytes(body)

    def drain(self, path: str, **params: Any) -> None:
        """A GET whose body is dropped as it comes."""
        self.requests += 1
        with self.client.stream("GET", path, params=params) as response:
            response.raise_for_status()
            for block in response.iter_raw():
                self.received += len(block)

    def make(self, path: str, body: Mapping[str, Any]) -> int:
        """The id of what a POST makes."""
        self.requests += 1
        made = post(self.client, path, orjson.dumps(body))
        self.received += len(made.content)
        return int(made.json()["id"])

    def remove(self, path: str) -> None:
        """A DELETE."""
        self.requests += 1
        self.client.delete(path).raise_for_status()


Door = Callable[[Wire, Filled], None]


def _pages(size: int, *, everything: bool = False) -> Door:
    def read(wire: Wire, filled: Filled) -> None:
        named = {} if everything else {"include": list(TASK_FIELDS), "resolve_uri": "false"}
        for number in range(1, -(-filled.size // size) + 1):
            wire.drain("/api/tasks/", project=filled.project_id, page=number, page_size=size, fields="all", **named)

    return read


def _export(wire: Wire, filled: Filled) -> None:
    wire.drain(f"/api/projects/{filled.project_id}/export", exportType="JSON")


def _snapshot(options: Mapping[str, Any]) -> Door:
    def read(wire: Wire, filled: Filled) -> None:
        exports = f"/api/projects/{filled.project_id}/exports/"
        made = wire.make(exports, {"title": "bare", **options})
        wire.drain(f"{exports}{made}/download", exportType="JSON")

    return read


def _chunks(wire: Wire, filled: Filled) -> None:
    """Exports of so many tasks each, of a tab that has their range of ids as its filter."""
    exports = f"/api/projects/{filled.project_id}/exports/"
    after, left = 0, filled.size
    while left > 0:
        last = _id_of_nth(wire, filled, after, EXPORT_TASKS) if left > EXPORT_TASKS else None
        view = wire.make("/api/dm/views/", {"project": filled.project_id, "data": {"filters": _range(after, last)}})
        made = wire.make(exports, {"title": "bare", "task_filter_options": {"view": view}, **_LEAN})
        wire.drain(f"{exports}{made}/download", exportType="JSON")
        wire.remove(f"{exports}{made}")
        wire.remove(f"/api/dm/views/{view}/")
        after, left = last or 0, left - EXPORT_TASKS


def _id_of_nth(wire: Wire, filled: Filled, after: int, number: int) -> int:
    query = json.dumps({"ordering": ["tasks:id"], "filters": _range(after, None)})
    found = wire.read(
        "/api/tasks/", project=filled.project_id, page=number, page_size=1, fields="task_only", include="id",
        query=query,
    )  # fmt: skip
    return int(orjson.loads(found)["tasks"][0]["id"])


def _range(after: int, through: int | None) -> dict[str, Any]:
    bounds = [("greater", after)] if through is None else [("greater", after), ("less", through + 1)]
    items = [
        {"filter": "filter:tasks:id", "operator": operator, "type": "Number", "value": value}
        for operator, value in bounds
    ]
    return {"conjunction": "and", "items": items}


DOORS: Mapping[str, Door] = {
    "pages of 500, named fields": _pages(500),
    "pages of 1,000, named fields": _pages(1000),
    "pages of 500, every field": _pages(500, everything=True),
    "export in one answer": _export,
    "export snapshot, as is": _snapshot({}),
    "export snapshot, ids for people": _snapshot(_LEAN),
    f"export snapshots of {EXPORT_TASKS:,}, by tab": _chunks,
}
MOST: Mapping[str, int] = {
    "pages of 500, every field": 5_000,
    "pages of 1,000, named fields": 20_000,
    "export snapshot, as is": 20_000,
}
"""More tasks than that are not read by a way that takes three times as long as others, or as long as another one."""


def doors_for(size: int) -> dict[str, Door]:
    """Those that are tried on so many tasks."""
    return {name: door for name, door in DOORS.items() if size <= MOST.get(name, size)}
