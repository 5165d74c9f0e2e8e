"""One project on the real server, what a person does in it, and what a pull makes of that."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import pyarrow.parquet as pq

from pipeline.images import ImageConfig, Images
from pipeline.label_studio import LabelStudio
from pipeline.records import Project
from pipeline.snapshot.pull import PullResult, pull

CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image">
<Choice value="cat"/><Choice value="dog"/></Choices></View>"""
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


class Server(Protocol):
    """What these tests need of the session's server."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...


class Counting(httpx.HTTPTransport):
    """Passes requests on to the real server and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return super().handle_request(request)

    def read_tasks(self) -> int:
        """Requests that read answers, be it in pages or by an export."""
        return sum("fields=all" in str(each.url) or "/download" in str(each.url) for each in self.requests)


@dataclass
class Studio:
    """One project on the real server, and what a person does in it."""

    door: LabelStudio
    project: Project
    http: httpx.Client
    wire: Counting
    ids: list[int] = field(default_factory=list)

    def add(self, count: int, *, answered: bool = True) -> None:
        first = len(self.ids)
        said = [{**answer("cat"), "ground_truth": False}] if answered else []
        tasks = [{"data": {"image": PIXEL, "sample_id": f"s{first + n}"}, "annotations": said} for n in range(count)]
        self.door.import_tasks(self.project.project_id, tasks)
        found = {task.sample_id: task.task_id for task in self.door.iter_tasks(self.project)}
        self.ids = [found[f"s{number}"] for number in range(first + count)]

    def annotation(self, number: int) -> str:
        listed = self.http.get(f"/api/tasks/{self.ids[number]}/annotations/").raise_for_status().json()
        return f"/api/annotations/{listed[0]['id']}/"

    def edit(self, number: int) -> None:
        self.http.patch(self.annotation(number), json=answer("dog")).raise_for_status()

    def star(self, number: int) -> None:
        self.http.patch(self.annotation(number), json={"ground_truth": True}).raise_for_status()

    def take_back(self, number: int) -> None:
        self.http.delete(self.annotation(number)).raise_for_status()

    def say(self, number: int, **more: Any) -> None:
        body = {**answer("dog"), **more}
        self.http.post(f"/api/tasks/{self.ids[number]}/annotations/", json=body).raise_for_status()

    def delete(self, number: int) -> None:
        self.http.delete(f"/api/tasks/{self.ids[number]}/").raise_for_status()

    def pull(self, root: Path) -> PullResult:
        state = self.door.project_state(self.project)
        with Images(ImageConfig(), root=root, base_url=self.door.url, authorization=self.door.authorization) as images:
            return pull(self.door, images, labels=self.project, data_dir=root, states=[state])


def answer(label: str) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"result": [region]}


def said(result: PullResult) -> dict[str, list[tuple[str, str | None, bool]]]:
    found: dict[str, list[tuple[str, str | None, bool]]] = {}
    for row in pq.read_table(result.snapshot.labels_path).to_pylist():
        found.setdefault(row["sample_id"], []).append((row["answer"], row["label"], row["ground_truth"]))
    return found
