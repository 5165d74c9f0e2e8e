"""The reading calls of the door to Label Studio, over tasks in memory."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator
from datetime import datetime

from pipeline.records import Chunk, Listed, Project, ProjectState, Recent, Task, TaskRead


class TaskSource(ABC):
    """Every task counts as changed at every pull, which is what a server whose clock stands still would say."""

    @abstractmethod
    def tasks_of(self, project: Project) -> Collection[Task]:
        """The tasks that are there now, in any order."""

    def problems_of(self, _project: Project, _task: Task) -> tuple[tuple[str, str], ...]:
        """What cannot be read of a task."""
        return ()

    def clock(self, _project: Project) -> datetime | None:
        return None

    def count_answered(self, project: Project, *, after: int = 0, through: int | None = None) -> tuple[int, int]:
        some = [task for task in self.tasks_of(project) if after < task.task_id <= (through or task.task_id)]
        said = [task.annotations for task in some if task.annotations]
        return len(said), sum(not each.was_cancelled for annotations in said for each in annotations)

    def newest_change(self, _project: Project) -> str:
        return ""

    def all_answered(
        self,
        project: Project,
        *,
        after: int = 0,
        mark: str = "",
        resumed: bool = False,
        state: ProjectState | None = None,
    ) -> Generator[Chunk, None, None]:
        del mark, resumed, state
        yield from self._chunks(project, after)

    def recent(self, _project: Project) -> Recent:
        raise AssertionError("nothing here has a time")

    def change_times(
        self, project: Project, *, since: str = "", after: int = 0, through: int | None = None
    ) -> Iterator[list[Listed]]:
        assert since == ""
        read = (self._read(project, task) for task in self._sorted(project) if task.annotations)
        yield [
            Listed(each.task_id, "", each.answers, each.entries)
            for each in read
            if after < each.task_id <= (through or each.task_id)
        ]

    def tasks_by_id(self, project: Project, ids: Collection[int]) -> Generator[Chunk, None, None]:
        yield self._chunk(project, [task for task in self._sorted(project) if task.task_id in ids])

    def _sorted(self, project: Project) -> list[Task]:
        return sorted(self.tasks_of(project), key=lambda task: task.task_id)

    def _chunks(self, project: Project, after: int) -> Iterator[Chunk]:
        tasks = [task for task in self._sorted(project) if task.task_id > after]
        for start in range(0, len(tasks), 3):
            yield self._chunk(project, tasks[start : start + 3])

    def _chunk(self, project: Project, tasks: list[Task]) -> Chunk:
        read = tuple(self._read(project, task) for task in tasks)
        return Chunk(tasks=read, through=max((each.task_id for each in read), default=0))

    def _read(self, project: Project, task: Task) -> TaskRead:
        return TaskRead(
            task_id=task.task_id,
            task=task,
            updated_at="",
            answers=sum(not each.was_cancelled for each in task.annotations),
            entries=len(task.annotations),
            problems=self.problems_of(project, task),
        )
