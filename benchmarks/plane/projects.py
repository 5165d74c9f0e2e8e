"""Projects to be read: tasks with one annotation each, and real pictures below the server's local-files root."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from PIL import Image

from benchmarks.plane.server import Server
from fasten_model.errors import DataError
from pipeline.label_studio import LabelStudio
from pipeline.snapshot.catch_up import LAG

CLASSES = tuple(f"class {number}" for number in range(10))
PICTURES = "pictures"
"""Folder below the root of the local files."""
_CHUNK = 5_000
_CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    + "".join(f'<Choice value="{name}"/>' for name in CLASSES)
    + "</Choices></View>"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """A project with `size` tasks."""

    project_id: int
    size: int


def make_pictures(files: Path, count: int) -> None:
    """`count` PNG files of 32 × 32, about 1 kB each, no two alike."""
    folder = files / PICTURES
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        (folder / f"{number:06d}.png").write_bytes(picture(random))


def picture(random: np.random.Generator) -> bytes:
    """One of them."""
    pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def local_url(number: int) -> str:
    """Address of a picture as a task's data has it."""
    return f"/data/local-files/?d={PICTURES}/{number:06d}.png"


def fill(server: Server, door: LabelStudio, sizes: Iterable[int]) -> dict[int, Filled]:
    """A new project of each size, filled by import; some time after the last one, an answer in each is given anew.

    So nearly all answers are older than the lag of an incremental pull, as they are wherever people gave them.
    """
    filled = {size: _fill(server, door, size) for size in sizes}
    time.sleep(1.5 * LAG.total_seconds() if filled else 0)
    with server.bare() as client:
        for each in filled.values():
            one: dict[str, str | int] = {"project": each.project_id, "page_size": 1, "fields": "all"}
            [task] = client.get("/api/tasks/", params=one).raise_for_status().json()["tasks"]
            again = f"/api/annotations/{task['annotations'][0]['id']}/"
            client.patch(again, json=answer(CLASSES[0])).raise_for_status()
    return filled


def serve_pictures(server: Server, door: LabelStudio) -> None:
    """Label Studio hands local files out only where a storage of some project covers them."""
    project = door.create_project("pictures", _CONFIG)
    storage = {"project": project.project_id, "path": str(server.files / PICTURES), "use_blob_urls": True}
    with server.bare() as client:
        post(client, "/api/storages/localfiles", orjson.dumps({**storage, "title": PICTURES}))


def _fill(server: Server, door: LabelStudio, size: int) -> Filled:
    project = door.create_project(f"{size} tasks", _CONFIG)
    with server.bare() as client:
        for tasks in _chunks(size):
            post(client, f"/api/projects/{project.project_id}/import", orjson.dumps(tasks))
    found = door.count_answered(project)
    if found != (size, size):
        raise DataError(f"a project of {size} tasks was filled, and has {found}")
    return Filled(project_id=project.project_id, size=size)


def post(client: httpx.Client, path: str, body: bytes) -> httpx.Response:
    """One POST of JSON; `DataError` where it is refused."""
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    if not answer.is_success:
        raise DataError(f"Label Studio answered {answer.status_code} to {path}: {answer.text[:200]}")
    return answer


def _chunks(size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, size, _CHUNK):
        yield [_task(number) for number in range(start, min(start + _CHUNK, size))]


def _task(number: int) -> dict[str, Any]:
    return {
        "data": {"image": local_url(number), "sample_id": f"sample-{number:06d}"},
        "annotations": [answer(CLASSES[number * 7 % len(CLASSES)])],
    }


def answer(label: str) -> dict[str, Any]:
    """An annotation that says `label`."""
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"result": [region], "ground_truth": False, "lead_time": 2.5}
