"""Questions into a review project by the product's push, and the same payload by one bare import into another."""

import random
import time

import orjson

from benchmarks.plane.figure import Figure
from benchmarks.plane.projects import CLASSES, local_url, post
from benchmarks.plane.pulling import Tell
from benchmarks.plane.server import Server
from benchmarks.plane.wire import CountingTransport
from fasten_model.errors import DataError
from pipeline import queue
from pipeline.label_studio import LabelStudio
from pipeline.records import Project, ReviewTask
from pipeline.review_screen import review_config

BARE = "bare import, one request"
OURS = "push"


def questions(count: int) -> list[ReviewTask]:
    """Targeted questions, each with a suggestion."""
    return [
        ReviewTask(
            push_key=f"benchmark-{number:06d}-0123456789abcdef",
            sample_id=f"sample-{number:06d}",
            image_url=local_url(number),
            current_label=CLASSES[number % len(CLASSES)],
            model_label=CLASSES[(number + 1) % len(CLASSES)],
            confidence=0.9,
            reason="The model is rather sure of another label.",
            priority=0.5,
            model_version="7",
            run_key="benchmark",
            rank=number / count,
        )
        for number in range(count)
    ]


def measure(server: Server, count: int, *, rounds: int, tell: Tell) -> None:
    """Both ways, each round into new projects, and first whichever the dice say.

    Every few imports, whoever sends them, Label Studio takes 0.15 s longer by its own account: with turns of a fixed
    order that falls on one of the two.
    """
    asked = questions(count)
    dice = random.Random(count)
    ours: list[float] = []
    bare: list[float] = []
    with LabelStudio(server.config) as maker:
        for number in range(rounds + 1):  # the first round is not counted: the server has yet to warm up
            first, second = _project(maker, count, number), _project(maker, count, number)
            ours_first = dice.random() < 0.5
            if not ours_first:
                bare.append(_bare(server, first, asked))
            seconds, wire = _push(server, second, asked)
            ours.append(seconds)
            if ours_first:
                bare.append(_bare(server, first, asked))
    common = {"part": "push", "server": server.database, "size": count}
    tell(Figure(**common, what=BARE, seconds=bare[1:], requests=1))  # type: ignore[arg-type]
    tell(Figure(**common, what=OURS, seconds=ours[1:], requests=wire.requests, received=wire.received))  # type: ignore[arg-type]


def _project(door: LabelStudio, count: int, number: int) -> Project:
    return door.create_project(f"{count} questions, {number}", review_config(CLASSES), uncertainty_sampling=True)


def _bare(server: Server, project: Project, asked: list[ReviewTask]) -> float:
    body = orjson.dumps([queue.payload_of(task, project) for task in asked])
    with server.bare() as client:
        started = time.perf_counter()
        counted = post(client, f"/api/projects/{project.project_id}/import", body).json()
        seconds = time.perf_counter() - started
    if counted["task_count"] != len(asked):
        raise DataError(f"{len(asked)} questions were imported, the server counted {counted['task_count']}")
    return seconds


def _push(server: Server, project: Project, asked: list[ReviewTask]) -> tuple[float, CountingTransport]:
    wire = CountingTransport()
    with LabelStudio(server.config, transport=wire) as door:
        started = time.perf_counter()
        report = queue.push(door, project, asked)
        seconds = time.perf_counter() - started
    if report.added != len(asked):
        raise DataError(f"{len(asked)} questions were pushed, {report.added} were added")
    return seconds, wire
