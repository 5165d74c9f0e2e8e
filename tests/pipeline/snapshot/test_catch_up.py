"""The mirror holds what Label Studio holds, however it got there, and reads no more than it must."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ServiceUnavailable
from pipeline.records import Annotation, Chunk, LabelControl, Project, ProjectState, Task, TaskRead
from pipeline.snapshot import catch_up as following
from pipeline.snapshot import comparing
from pipeline.snapshot.catch_up import LAG, RECONCILE_AFTER, Source, catch_up, reconciliation_is_due
from pipeline.snapshot.mirror import Mirror, Row, mirror_path
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
        self.dies_after: int | None = None
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
        some = [task for number, task in self.tasks.items() if after < number <= (through or number)]
        said = [task.annotations for task in some if task.annotations]
        return len(said), sum(not each.was_cancelled for annotations in said for each in annotations)

    def newest_change(self, _project: Project) -> str:
        self.asked["newest"] += 1
        return self._newest()

    def all_answered(
        self, _project: Project, *, after: int = 0, mark: str = "", resumed: bool = True
    ) -> Iterator[Chunk]:
        assert mark == "ours"
        self.asked["resumed"] += resumed
        ids = [number for number in sorted(self.tasks) if number > after and self.tasks[number].annotations]
        for start in range(0, len(ids), 2):
            self.asked["load"] += 1
            if self.dies_after is not None and self.asked["load"] > self.dies_after:
                raise ServiceUnavailable("gone")
            yield self._chunk(ids[start : start + 2])

    def change_times(
        self, _project: Project, *, since: str = "", after: int = 0, through: int | None = None
    ) -> Iterator[list[tuple[int, str, bool]]]:
        self.asked["listing"] += 1
        page = []
        for number in sorted(self.tasks):
            answered, time = bool(self.tasks[number].annotations), _text(self.times[number])
            if after < number <= (through or number) and ((time > since) if since else answered):
                self.listed += 1
                page.append((number, time, answered))
                if len(page) == 2:
                    yield page
                    page = []
        yield page

    def tasks_by_id(self, _project: Project, ids: Collection[int]) -> Iterator[Chunk]:
        if ids:
            self.asked["by id"] += 1
            yield self._chunk([number for number in sorted(ids) if number in self.tasks])

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


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror.sqlite") as opened:
        yield opened


@pytest.fixture
def server() -> Server:
    """Seven tasks, one of them without an answer; the last change is longer ago than the lag."""
    made = Server()
    for number in range(6):
        made.add("cat" if number % 2 else "dog")
    made.add()
    made.now += 2 * LAG
    return made


def test_a_first_load_reads_every_answered_task_once(server: Server, mirror: Mirror) -> None:
    read = follow(server, mirror)
    assert sorted(read) == [number for number, task in server.tasks.items() if task.annotations]
    assert content(mirror) == truth(server)


def test_a_project_that_looks_as_before_is_not_asked_for_anything(server: Server, mirror: Mirror) -> None:
    follow(server, mirror, state=server.state)
    generation = mirror.generation
    assert follow(server, mirror, state=server.state) == []
    assert not server.asked
    assert mirror.generation == generation


def test_only_what_changed_is_read(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    server.now += 2 * LAG
    server.edit(1, label="dog")
    assert follow(server, mirror) == [1]
    assert server.asked == {"listing": 1, "by id": 1, "count": 1}
    assert content(mirror) == truth(server)


def test_what_lies_within_the_lag_is_listed_and_not_read_again(server: Server, mirror: Mirror) -> None:
    server.now -= 2 * LAG
    server.add("cat")
    follow(server, mirror)
    assert follow(server, mirror) == []
    assert server.asked["listing"] == 1


@pytest.mark.parametrize("deed", ["edit", "skip", "star", "take back", "delete", "add", "answer", "bare"])
def test_whatever_people_do_arrives(server: Server, mirror: Mirror, deed: str) -> None:
    follow(server, mirror, state=server.state)
    bare = next(number for number, task in server.tasks.items() if not task.annotations)
    deeds: dict[str, Callable[[], object]] = {
        "edit": lambda: server.edit(1, label="dog"),
        "skip": lambda: server.say(1, "", skipped=True),
        "star": lambda: server.edit(1, ground_truth=True),
        "take back": lambda: server.take_back(1),
        "delete": lambda: server.delete(1),
        "add": lambda: server.add("cat"),
        "answer": lambda: server.say(bare, "cat"),
        "bare": lambda: server.add(),
    }
    deeds[deed]()
    follow(server, mirror, state=server.state)
    assert content(mirror) == truth(server)
    starred = {number for number, task in server.tasks.items() if any(one.ground_truth for one in task.annotations)}
    assert {each.task_id for _, said in mirror.samples() for each in said if each.answer.ground_truth} == starred


def test_a_deleted_task_is_found_by_counting_and_costs_one_list(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    server.delete(3)
    assert follow(server, mirror) == []
    assert server.asked["listing"] == 2
    assert content(mirror) == truth(server)


@pytest.fixture
def many(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Two hundred tasks that the mirror has; a range of five is listed."""
    monkeypatch.setattr(comparing, "FEW", 5)
    made = Server()
    for _ in range(200):
        made.add("cat")
    made.now += 2 * LAG
    follow(made, mirror)
    made.now += 2 * LAG
    made.add("cat")
    made.now += 2 * LAG
    follow(made, mirror)
    return made


@pytest.mark.parametrize("place", [0, 77, 200])
def test_a_deleted_task_among_many_is_found_by_halves(many: Server, mirror: Mirror, place: int) -> None:
    many.delete(sorted(many.tasks)[place])
    assert follow(many, mirror) == []
    assert content(mirror) == truth(many)
    assert many.asked["count"] <= 8
    assert many.listed <= 5 + 1, "the range, and what lies within the lag"


def test_an_annotation_that_went_without_a_time_is_found_by_halves(many: Server, mirror: Mirror) -> None:
    gone = sorted(many.tasks)[77]
    many.tasks[gone] = replace(many.tasks[gone], annotations=())
    assert follow(many, mirror) == []
    assert content(mirror) == truth(many)
    assert many.listed <= 5 + 3


@pytest.mark.parametrize("every", [2, 10, 60])
def test_many_deleted_tasks_are_found_with_few_questions(many: Server, mirror: Mirror, every: int) -> None:
    for number in sorted(many.tasks)[::every]:
        many.delete(number)
    follow(many, mirror)
    assert content(mirror) == truth(many)
    assert many.asked["count"] <= comparing.MOST_COUNTS + 1
    assert many.asked["listing"] <= comparing.MOST_COUNTS + 2


def test_a_first_load_that_was_cut_off_goes_on_where_it_stopped(server: Server, mirror: Mirror) -> None:
    server.dies_after = 2
    with pytest.raises(ServiceUnavailable):
        follow(server, mirror)
    assert (len(server.read), server.asked["resumed"]) == (4, 0)
    server.dies_after = None
    read = follow(server, mirror)
    assert (len(read), server.asked["resumed"]) == (2, 1)
    assert content(mirror) == truth(server)


def test_a_long_load_leaves_room_for_other_work(
    server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_TASKS_APART", 3)
    here: list[int] = []
    source = Source(project=PROJECT, origin="labels", reading="r")
    seen = lambda: here.append(mirror.counts(1)[0])  # noqa: E731
    catch_up(server, mirror, source, kept, mark="ours", meanwhile=seen, now=START)
    assert here == [4], "chunks of two: after the second, and not after the third"


def test_what_changes_while_the_first_load_is_cut_off_arrives(server: Server, mirror: Mirror) -> None:
    server.dies_after = 2
    with pytest.raises(ServiceUnavailable):
        follow(server, mirror)
    server.dies_after = None
    server.edit(1, label="eel")
    server.delete(3)
    follow(server, mirror)
    assert content(mirror) == truth(server)


@pytest.mark.parametrize("hours", [1, 24 * 400])
def test_what_happens_after_the_servers_clock_was_set_back_arrives_at_once(
    server: Server, mirror: Mirror, hours: int
) -> None:
    follow(server, mirror, state=server.state)
    before = server.state
    server.now -= timedelta(hours=hours)
    server.edit(1, label="eel")
    assert server.state == before, "nothing that is asked first shows it"
    follow(server, mirror, state=server.state)
    assert content(mirror) == truth(server)
    server.edit(3, label="eel")
    assert follow(server, mirror, state=server.state) == [3]
    assert server.asked["listing"] == 1, "the cursor has gone back with the clock"
    server.now += timedelta(hours=2 * hours)
    follow(server, mirror, state=server.state)
    server.edit(5, label="eel")
    assert follow(server, mirror, state=server.state) == [5]
    assert content(mirror) == truth(server)


def test_a_clock_that_is_set_back_by_less_than_the_lag_costs_nothing(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    server.now = max(server.times.values()) - LAG / 2
    server.edit(1, label="eel")
    assert follow(server, mirror) == [1]
    assert server.asked["listing"] == 1


def test_a_clock_that_was_set_back_during_the_first_load_hides_nothing(server: Server, mirror: Mirror) -> None:
    server.now -= timedelta(days=1)
    follow(server, mirror, state=server.state)
    server.edit(1, label="eel")
    follow(server, mirror, state=server.state)
    assert content(mirror) == truth(server)


def test_a_mirror_ahead_of_the_servers_clock_has_to_be_looked_at(server: Server, tmp_path: Path) -> None:
    with Mirror(mirror_path(tmp_path)) as opened:
        follow(server, opened, state=server.state)
    assert not reconciliation_is_due(tmp_path, START, there=server.now)
    assert reconciliation_is_due(tmp_path, START, there=server.now - timedelta(hours=1))
    with Mirror(mirror_path(tmp_path)) as opened:
        server.now -= timedelta(hours=1)
        follow(server, opened, state=server.state)
    assert reconciliation_is_due(tmp_path, START, there=server.now), "the newest change is yet to come"


def test_what_was_changed_by_hand_arrives_with_the_next_comparison_of_everything(
    server: Server, mirror: Mirror
) -> None:
    follow(server, mirror)
    server.edit(1, label="eel")
    server.times[1] -= timedelta(days=1)
    follow(server, mirror, now=START + RECONCILE_AFTER / 2)
    assert content(mirror) != truth(server), "neither a later time nor a count shows it"
    follow(server, mirror, now=START + 2 * RECONCILE_AFTER)
    assert content(mirror) == truth(server)


@pytest.mark.parametrize("ours", [timedelta(days=-400), timedelta(days=400)])
def test_our_own_clock_decides_nothing(server: Server, mirror: Mirror, ours: timedelta) -> None:
    follow(server, mirror, now=START + ours)
    server.edit(1, label="eel")
    server.delete(3)
    assert follow(server, mirror, now=START + ours) == [1]
    assert content(mirror) == truth(server)


def test_another_way_of_reading_reads_everything_anew(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    assert len(follow(server, mirror, reading="other")) == 6


def test_a_project_in_another_role_is_read_anew(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    source = Source(project=PROJECT, origin="audit", reading="r")
    server.read.clear()
    catch_up(server, mirror, source, kept, mark="ours", now=START)
    assert len(server.read) == 6
    assert {each.answer.origin for _, said in mirror.samples() for each in said} == {"audit"}


what_happens = st.lists(
    st.tuples(
        st.sampled_from(["add", "bare", "say", "skip", "edit", "take back", "delete", "wait", "cut", "follow"]),
        st.integers(0, 20),
    ),
    max_size=20,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(what_happens)
def test_the_mirror_ends_as_a_fresh_one(tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int]]) -> None:
    server, folder = Server(), tmp_path_factory.mktemp("mirror")
    with Mirror(folder / "long.sqlite") as long, Mirror(folder / "fresh.sqlite") as fresh:
        for deed, place in done:
            said = [number for number, task in sorted(server.tasks.items()) if task.annotations]
            some = sorted(server.tasks)[place % len(server.tasks)] if server.tasks else 0
            if deed == "add":
                server.add(("cat", "dog")[place % 2])
            elif deed == "bare":
                server.add()
            elif deed == "wait":
                server.now += LAG * place / 10
            elif deed in ("say", "skip") and some:
                server.say(some, "cat", skipped=deed == "skip")
            elif deed == "edit" and said:
                server.edit(said[place % len(said)], label=f"label {place}")
            elif deed == "take back" and said:
                server.take_back(said[place % len(said)])
            elif deed == "delete" and some:
                server.delete(some)
            elif deed == "cut":
                server.dies_after = place % 3
                with suppress(ServiceUnavailable):
                    follow(server, long, state=server.state)
                server.dies_after = None
            elif deed == "follow":
                follow(server, long, state=server.state)
                assert content(long) == truth(server)
        follow(server, long)
        follow(server, fresh)
        assert content(long) == content(fresh) == truth(server)
