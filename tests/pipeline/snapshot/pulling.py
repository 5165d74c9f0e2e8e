"""Three projects in memory, pulled."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
from PIL import Image

from pipeline.images import ImageConfig, Images
from pipeline.records import Annotation, LabelControl, Project, Task
from pipeline.snapshot.pull import PullResult, pull
from tests.pipeline.snapshot.task_source import TaskSource

CLASSES = ("cat", "dog", "eel")
START = datetime(2026, 1, 1, tzinfo=UTC)


def project(number: int, title: str = "", classes: tuple[str, ...] = CLASSES) -> Project:
    control = LabelControl(name="label", to_name="image", image_field="image", classes=classes)
    return Project(project_id=number, title=title or f"project {number}", control=control)


LABELS, AUDIT, REVIEW = project(1, "labels"), project(2, "audit"), project(3, "review")


def picture(colour: int) -> str:
    """A `data:` URI whose bytes differ from those of every other colour."""
    file = BytesIO()
    Image.new("L", (2, 2), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


PICTURES = [picture(colour) for colour in range(40)]


class Server(TaskSource):
    """Tasks in memory, served as the door to Label Studio serves them."""

    def __init__(self) -> None:
        self.tasks: dict[int, list[Task]] = {1: [], 2: [], 3: []}
        self.bad: dict[int, tuple[str, str]] = {}
        self._ids = count(1)

    def tasks_of(self, project: Project) -> list[Task]:
        return self.tasks[project.project_id]

    def problems_of(self, _project: Project, task: Task) -> tuple[tuple[str, str], ...]:
        return (self.bad[task.task_id],) if task.task_id in self.bad else ()

    def add(
        self, where: Project, *said: Annotation, image: Any = PICTURES[0], sample: str | None = None, **more: str
    ) -> Task:
        data = {"image": image, **more} | ({"sample_id": sample} if sample else {})
        numbered = tuple(replace(one, annotation_id=next(self._ids)) for one in said)
        task = Task(task_id=next(self._ids), project_id=where.project_id, data=data, annotations=numbered)
        self.tasks[where.project_id].append(task)
        return task


def says(label: str | None, user: int = 1, minute: int = 0, **more: Any) -> Annotation:
    values: dict[str, Any] = {"kind": "class", "ground_truth": False, "was_cancelled": False, "lead_time_s": 1.5} | more
    time = START + timedelta(minutes=minute)
    return Annotation(
        annotation_id=0, annotator=f"user:{user}", label=label, created_at=time, updated_at=time, **values
    )


def refuse(request: httpx.Request) -> httpx.Response:
    return httpx.Response(404 if "gone" in request.url.path else 503)


def pulled(server: Server, root: Path, **projects: Any) -> PullResult:
    chosen: dict[str, Any] = {"labels": LABELS, "audit": AUDIT, "review": REVIEW} | projects
    config = ImageConfig(retries=0)
    transport = httpx.MockTransport(refuse)
    with Images(config, root=root, base_url="http://host", authorization=dict, transport=transport) as images:
        return pull(server, images, data_dir=root, **chosen)


def rows(result: PullResult, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(result.snapshot.path / f"{table}.parquet").to_pylist()
    return found


def only(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (row,) = found
    return row


def fill(server: Server) -> None:
    for number in range(6):
        server.add(LABELS, says(CLASSES[number % 3]), image=PICTURES[number], sample=f"s{number}")
    server.add(AUDIT, says("dog", 9), image=PICTURES[1], sample="s1")
