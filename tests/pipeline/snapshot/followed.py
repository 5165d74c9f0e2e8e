"""A project in memory that people work in, and a mirror that follows it."""

from collections import Counter
from collections.abc import Collection, Generator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.errors import ServiceUnavailable
from pipeline.records import Annotation, Chunk, LabelControl, Listed, Project, ProjectState, Recent, Task, TaskRead
from pipeline.snapshot.catch_up import LAG, Source, catch_up
from pipeline.snapshot.mirror import Mirror, Row
from pipeline.snapshot.question import Question

START = datetime(2026, 1, 1, tzinfo=UTC)
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
PROJECT = Project(project_id=1, title="labels", control=CONTROL)


class Server:
    """A project whose every change has a time, and which counts what is asked of it. Pages hold two tasks."""

    def __init__(self) -> None:
        self.now = START
        self.tasks: dict[int, Task] = {}
        self.times: dict[int, datetime] = {}
        self.asked = Counter[str]()
        self.read: list[int] = []
        self.listed = 0
        self.shown = 20
        """How many tasks `recent` lists."""
        self.dies_after: int | None = None
        self.reading = False
        """Whether a first load is under way."""
        self._last = 0

    # People ----------------------------------------------------------------------------------------------------------

    def add(self, *labels: str) -> int:
        self._last += 1
        self.tasks[self._last] = Task(task_id=self._last, project_id=1, data={"image": f"/data/{self._last}.png"})
        self._touch(self._last)
        for label in labels:
            self.say(self._last, label)
        return self._last

    def say(self, task_id: int, label: str, *, skipped: bool = False) -> None:
        self._last += 1
        said = Annotation(
            annotation_id=self._last,
            annotator="user:1",
            kind="skipped" if skipped else "class",
            label=None if skipped else label,
            ground_truth=False,
            was_cancelled=skipped,
            lead_time_s=None,
            created_at=self.now,
            updated_at=self.now,
        )
        task = self.tasks[task_id]
        self.tasks[task_id] = replace(task, annotations=(*task.annotations, said))
        self._touch(task_id)

    def edit(self, task_id: int, **changes: Any) -> None:
        task = self.tasks[task_id]
        first, *others = task.annotations
        self.tasks[task_id] = replace(task, annotations=(replace(first, **changes), *others))
        self._touch(task_id)

    def take_back(self, task_id: int) -> None:
        task = self.tasks[task_id]
        self.tasks[task_id] = replace(task, annotations=task.annotations[1:])
        self._touch(task_id)

    def delete(self, task_id: int) -> None:
        del self.tasks[task_id], self.times[task_id]

    def _touch(self, task_id: int) -> None:
        self.now += timedelta(seconds=1)
        self.times[task_id] = self.now

    # The door --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ProjectState:
        said = sum(len(task.annotations) for task in self.tasks.values())
        return ProjectState(project_id=1, tasks=len(self.tasks), annotations=said, newest_change=self._newest())

    def _newest(self) -> str:
        return _text(max(self.times.values())) if self.times else ""

    def clock(self, _project: Project) -> datetime:
        return self.now

    def count_answered(self, _project: Project, *, after: int = 0, through: int | None = None) -> tuple[int, int]:
        self.asked["count"] += 1
        return self._counts([number for number in self.tasks if after < number <= (through or number)])

    def _counts(self, numbers: Collection[int]) -> tuple[int, int]:
        said = [self.tasks[number].annotations for number in numbers if self.tasks[number].annotations]
        return len(said), sum(not each.was_cancelled for annotations in said for each in annotations)

    def newest_change(self, _project: Project) -> str:
        self.asked["newest"] += 1
        return self._newest()

    def all_answered(
        self,
        _project: Project,
        *,
        after: int = 0,
        mark: str = "",
        resumed: bool = False,
        state: ProjectState | None = None,
    ) -> Generator[Chunk, None, None]:
        del state
        assert mark == "ours"
        self.asked["resumed"] += resumed
        ids = [number for number in sorted(self.tasks) if number > after and self.tasks[number].annotations]
        self.reading = True
        try:
            for start in range(0, len(ids), 2):
                self.asked["load"] += 1
                if self.dies_after is not None and self.asked["load"] > self.dies_after:
                    raise ServiceUnavailable("gone")
                yield replace(self._chunk(ids[start : start + 2]), last=start + 2 >= len(ids))
        finally:
            self.reading = False

    def recent(self, _project: Project) -> Recent:
        self.asked["recent"] += 1
        answered = [number for number in self.tasks if self.tasks[number].annotations]
        latest = sorted(answered, key=self.times.__getitem__, reverse=True)[: self.shown]
        return Recent(tasks=tuple(map(self._listed, latest)), counts=self._counts(answered), clock=self.now)

    def change_times(
        self, _project: Project, *, since: str = "", after: int = 0, through: int | None = None
    ) -> Iterator[list[Listed]]:
        self.asked["listing"] += 1
        page = []
        for number in sorted(self.tasks):
            said, time = self.tasks[number].annotations, _text(self.times[number])
            if after < number <= (through or number) and ((time > since) if since else said):
                self.listed += 1
                page.append(self._listed(number))
                if len(page) == 2:
                    yield page
                    page = []
        yield page

    def tasks_by_id(self, _project: Project, ids: Collection[int]) -> Generator[Chunk, None, None]:
        if ids:
            self.asked["by id"] += 1
            yield self._chunk([number for number in sorted(ids) if number in self.tasks])

    def _listed(self, number: int) -> Listed:
        said = self.tasks[number].annotations
        return Listed(number, _text(self.times[number]), sum(not each.was_cancelled for each in said), len(said))

    def _chunk(self, ids: list[int]) -> Chunk:
        self.read += ids
        return Chunk(tasks=tuple(map(self._read, ids)), through=max(ids, default=0))

    def _read(self, number: int) -> TaskRead:
        task = self.tasks[number]
        return TaskRead(
            task_id=number,
            task=task,
            updated_at=_text(self.times[number]),
            answers=sum(not each.was_cancelled for each in task.annotations),
            entries=len(task.annotations),
        )


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def kept(read: TaskRead) -> Row:
    assert read.task is not None
    return Row(
        project_id=1,
        task_id=read.task_id,
        sample_id=read.task.sample_id,
        annotations=read.task.annotations,
        image_url=read.task.data["image"],
        question=Question(),
        updated_at=read.updated_at,
        answers=read.answers,
        entries=read.entries,
    )


def follow(
    server: Server, mirror: Mirror, *, state: ProjectState | None = None, reading: str = "r", now: datetime = START
) -> list[int]:
    """Catch up, and → the tasks that were read for it."""
    server.read.clear()
    server.asked.clear()
    server.listed = 0
    source = Source(project=PROJECT, origin="labels", reading=reading, state=state)
    catch_up(server, mirror, source, kept, mark="ours", now=now)
    return server.read


def content(mirror: Mirror) -> dict[str, list[tuple[int, str | None]]]:
    return {
        sample: [(each.answer.annotation_id, each.answer.label) for each in said] for sample, said in mirror.samples()
    }


def truth(server: Server) -> dict[str, list[tuple[int, str | None]]]:
    return {
        task.sample_id: sorted((each.annotation_id, each.label) for each in task.annotations)
        for task in server.tasks.values()
        if task.annotations
    }


def seven_tasks() -> Server:
    """Seven tasks, one of them without an answer; the last change is longer ago than the lag."""
    made = Server()
    for number in range(6):
        made.add("cat" if number % 2 else "dog")
    made.add()
    made.now += 2 * LAG
    return made
