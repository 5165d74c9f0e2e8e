"""What goes back into Label Studio goes once, follows the labels of today, and touches nobody's work."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, DataError, ServiceUnavailable
from pipeline.export import machine_users, write_as_user, write_project
from pipeline.export.machine_users import declare_machine
from pipeline.label_config import find_control
from pipeline.label_studio import MissingProjectError
from pipeline.records import Annotation, LabelControl, Project, Task
from pipeline.trail import append_machine, mark_reverted
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {"relabels": {"rho": 0.8}, "transition": [[0.8, 0.1, 0.1]] * 3}
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("bright", "dark", "grey"))
LABELS = Project(project_id=1, title="labels", control=CONTROL)


class Studio:
    """Projects and their tasks in memory; also the machine's user."""

    def __init__(self) -> None:
        self.projects: dict[int, Project] = {1: LABELS}
        self.tasks: dict[int, list[Task]] = {1: []}
        self.annotator = "user:70"
        self.lost_answers = 0
        self._ids = count(100)

    def add(self, project: int, sample: str, *said: tuple[str, str], **more: str) -> None:
        annotations = tuple(self._annotation(who, label) for who, label in said)
        data = {"sample_id": sample, "image": f"/{sample}.png", **more}
        self.tasks[project].append(
            Task(task_id=next(self._ids), project_id=project, data=data, annotations=annotations)
        )

    def _annotation(self, who: str, label: str, **more: Any) -> Annotation:
        number = next(self._ids)
        at = NOON + timedelta(minutes=number)
        values: dict[str, Any] = {"kind": "class", "ground_truth": False, "was_cancelled": False, "lead_time_s": None}
        return Annotation(
            annotation_id=number, annotator=who, label=label, created_at=at, updated_at=at, **values | more
        )

    def star(self, sample: str) -> None:
        self._replace(sample, lambda said: tuple(replace(one, ground_truth=True) for one in said))

    def edit(self, sample: str, label: str) -> None:
        """Somebody changes the machine's annotation where it is: its author stays."""

        def changed(said: Any) -> tuple[Annotation, ...]:
            return tuple(
                replace(one, label=label, updated_at=one.updated_at + timedelta(hours=1))
                if one.annotator == self.annotator
                else one
                for one in said
            )

        self._replace(sample, changed)

    def _replace(self, sample: str, change: Callable[[Any], tuple[Annotation, ...]]) -> None:
        self.tasks[1] = [
            replace(task, annotations=change(task.annotations)) if task.sample_id == sample else task
            for task in self.tasks[1]
        ]

    def said(self, project: int = 1) -> dict[str, list[tuple[str, str | None]]]:
        return {
            task.sample_id: [(one.annotator, one.label) for one in task.annotations] for task in self.tasks[project]
        }

    def iter_tasks(self, project: Project) -> Iterator[Task]:
        yield from list(self.tasks[project.project_id])

    def annotate(self, _project: Project, task: Task, label: str) -> None:
        self._replace(task.sample_id, lambda said: (*said, self._annotation(self.annotator, label)))

    def withdraw(self, _project: Project, annotation_id: int) -> bool:
        for task in self.tasks[1]:
            kept = tuple(one for one in task.annotations if one.annotation_id != annotation_id)
            self._replace(task.sample_id, lambda _, kept=kept: kept)  # type: ignore[misc]
        return True

    def find_project(self, ref: str) -> Project:
        for project in self.projects.values():
            if project.title == ref:
                return project
        raise MissingProjectError(ref)

    def create_project(self, title: str, label_config: str, *, description: str) -> Project:
        assert "not read back" in description
        number = next(self._ids)
        made = Project(project_id=number, title=title, control=find_control(label_config, project=title))
        self.projects[number], self.tasks[number] = made, []
        return made

    def find_data_values(self, project_id: int, field: str, values: Iterable[str]) -> set[str]:
        return {str(task.data[field]) for task in self.tasks[project_id]} & set(values)

    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]]) -> int:
        for entry in payload:
            [annotation] = entry["annotations"]
            assert annotation["ground_truth"] is False
            [label] = annotation["result"][0]["value"]["choices"]
            more = {name: value for name, value in entry["data"].items() if name not in ("sample_id", "image")}
            self.add(project_id, entry["data"]["sample_id"], ("user:1", label), **more)
        if self.lost_answers:
            self.lost_answers -= 1
            raise ServiceUnavailable("no answer")
        return len(payload)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path)


@pytest.fixture
def snapshot(workspace: Workspace, make_snapshot: Make, make_scores: Scored) -> "Snapshot":
    """`a` and `b` relabelled, `c` kept, `d` decided by a person."""
    labels = [{"sample_id": name, "annotator": "user:5", "annotation_id": n} for n, name in enumerate("abcd")]
    noisy = {"a": "dark", "b": "grey", "c": "bright"}
    snapshot = make_snapshot(workspace.folder, labels=labels, noisy=noisy, clean={"d": ("dark", "grey", "review")})
    scores = make_scores(snapshot, {"a": ("grey", "relabel"), "b": ("dark", "relabel")})
    append_machine(workspace, "run-1", snapshot, scores, FITTED, mode="auto", mlflow_run_id="m", at=NOON)
    return snapshot


@pytest.fixture
def studio() -> Studio:
    studio = Studio()
    for sample, label in (("a", "dark"), ("b", "grey"), ("c", "bright"), ("d", "grey")):
        studio.add(1, sample, ("user:5", label))
    return studio


def counts(written: Any) -> tuple[int, int, int]:
    return written.added, written.there, written.removed


def test_the_machines_annotations_follow_its_relabels_and_peoples_stay(
    studio: Studio, workspace: Workspace, snapshot: "Snapshot"
) -> None:
    people = studio.said()
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot, dry_run=True)) == (2, 0, 0)
    assert studio.said() == people
    assert machine_users(workspace) == frozenset()
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot)) == (2, 0, 0)
    assert machine_users(workspace) == {"user:70"}
    relabels = {"a": [("user:70", "grey")], "b": [("user:70", "dark")]}
    assert studio.said() == {sample: [*said, *relabels.get(sample, [])] for sample, said in people.items()}
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot)) == (0, 2, 0)
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot)) == (0, 0, 2)
    assert studio.said() == people


def test_a_relabel_that_became_another_replaces_the_machines_own(
    studio: Studio, workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    write_as_user(studio, studio, LABELS, workspace, snapshot)
    scores = make_scores(snapshot, {"a": ("bright", "relabel"), "b": ("dark", "relabel")})
    at = NOON + timedelta(days=1)
    append_machine(workspace, "run-2", snapshot, scores, FITTED, mode="auto", mlflow_run_id="m", at=at)
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot)) == (1, 1, 1)
    assert studio.said()["a"] == [("user:5", "dark"), ("user:70", "bright")]


def test_what_a_person_marked_as_ground_truth_is_not_deleted(
    studio: Studio, workspace: Workspace, snapshot: "Snapshot"
) -> None:
    write_as_user(studio, studio, LABELS, workspace, snapshot)
    studio.star("a")
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot)) == (0, 0, 1)
    assert studio.said()["a"] == [("user:5", "dark"), ("user:70", "grey")]


def test_what_a_person_changed_in_place_is_theirs(studio: Studio, workspace: Workspace, snapshot: "Snapshot") -> None:
    write_as_user(studio, studio, LABELS, workspace, snapshot)
    studio.edit("a", "bright")
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot)) == (0, 1, 0)
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    assert counts(write_as_user(studio, studio, LABELS, workspace, snapshot)) == (0, 0, 1)
    assert studio.said()["a"] == [("user:5", "dark"), ("user:70", "bright")]


@pytest.mark.parametrize("dry_run", [False, True])
def test_somebody_who_has_answered_is_no_machine(
    dry_run: bool, studio: Studio, workspace: Workspace, snapshot: "Snapshot"
) -> None:
    studio.annotator = "user:5"
    before = studio.said()
    with pytest.raises(ConfigError, match="user:5 has answered as a person"):
        write_as_user(studio, studio, LABELS, workspace, snapshot, dry_run=dry_run)
    assert studio.said() == before
    assert machine_users(workspace) == frozenset()


def test_the_user_is_known_as_a_machine_before_anything_is_written(
    studio: Studio, workspace: Workspace, snapshot: "Snapshot", monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise ServiceUnavailable("no answer")

    monkeypatch.setattr(studio, "annotate", die)
    with pytest.raises(ServiceUnavailable):
        write_as_user(studio, studio, LABELS, workspace, snapshot)
    assert machine_users(workspace) == {"user:70"}


def test_a_damaged_list_of_machines_is_told_and_not_taken_for_none(workspace: Workspace, snapshot: "Snapshot") -> None:
    declare_machine(workspace, snapshot, "user:70")
    declare_machine(workspace, snapshot, "user:71")
    assert machine_users(workspace) == {"user:70", "user:71"}
    (workspace.folder / "machine_users.json").write_text("[7]")
    with pytest.raises(DataError, match=r"machine_users.json is damaged"):
        machine_users(workspace)


def enter(studio: Studio, workspace: Workspace, snapshot: "Snapshot", title: str = "out", **more: Any) -> Any:
    def pause(_: float) -> None: ...

    return write_project(studio, title, LABELS, workspace, snapshot, mode="auto", pause=pause, **more)


def test_a_project_of_its_own_gets_every_label_once(studio: Studio, workspace: Workspace, snapshot: "Snapshot") -> None:
    assert enter(studio, workspace, snapshot, dry_run=True).added == 4
    assert len(studio.projects) == 1
    assert enter(studio, workspace, snapshot).added == 4
    number = studio.find_project("out").project_id
    said = {"a": "grey", "b": "dark", "c": "bright", "d": "dark"}
    assert studio.said(number) == {sample: [("user:1", label)] for sample, label in said.items()}
    assert [task.data["corrected_by"] for task in studio.tasks[number]] == ["model", "model", "original", "review"]
    again = enter(studio, workspace, snapshot)
    assert (again.added, again.there, again.different) == (0, 4, 0)
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    later = enter(studio, workspace, snapshot)
    assert (later.added, later.there, later.different) == (0, 2, 2)
    assert studio.said(number)["a"] == [("user:1", "grey")], "what is there stays"


def test_a_lost_answer_sends_nothing_twice(
    studio: Studio, workspace: Workspace, snapshot: "Snapshot", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.write_back.CHUNK", 3)
    studio.lost_answers = 1
    assert enter(studio, workspace, snapshot).added == 4
    assert sorted(studio.said(studio.find_project("out").project_id)) == list("abcd")


def test_a_project_that_is_no_export_is_refused(studio: Studio, workspace: Workspace, snapshot: "Snapshot") -> None:
    before = studio.said()
    with pytest.raises(ConfigError, match="is there, and no export of these labels"):
        enter(studio, workspace, snapshot, "labels")
    with pytest.raises(ConfigError, match="taken for a project's id"):
        enter(studio, workspace, snapshot, "1")
    assert studio.said() == before
