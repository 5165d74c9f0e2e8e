"""Reverting a run undoes what the machine did, leaves what people said, and can be done again from any point."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.corrected import corrected_rows
from pipeline.errors import DataError, ServiceUnavailable
from pipeline.label_studio import TaskChange
from pipeline.records import WITHDRAWN, WITHDRAWN_BY, LabelControl, Project
from pipeline.trail import append_machine, reverted, reverted_rows, withdrawn_rows
from pipeline.trail.undo import REVERTED_WHY, Undone, find_run, undo_run
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {"relabels": {"rho": 0.8}, "transition": [[0.8, 0.1, 0.1]] * 3}
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("bright", "dark", "grey"))
REVIEW = Project(project_id=3, title="review", control=CONTROL)


@dataclass
class Question:
    task_id: int
    asked_by_run: str
    annotations: int = 0
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def untouched(self) -> bool:
        return not self.annotations

    @property
    def retired(self) -> bool:
        return WITHDRAWN in self.data and not self.annotations

    @property
    def withdrawn_by(self) -> str:
        return str(self.data.get(WITHDRAWN_BY, ""))

    @property
    def push_key(self) -> str:
        return f"key-{self.task_id}"

    @property
    def sample_id(self) -> str:
        return f"sample-{self.task_id}"


@dataclass
class Queue:
    """A review project; only what nobody has answered is changed."""

    questions: list[Question]
    answered_meanwhile: int | None = None
    away: bool = False
    changed: list[int] = field(default_factory=list)

    def asked(self, _project: Project) -> Iterator[Question]:
        yield from list(self.questions)

    def change_tasks(self, _project_id: int, changes: Iterable[TaskChange]) -> set[int]:
        if self.away:
            raise ServiceUnavailable("no answer")
        there = {question.task_id: question for question in self.questions}
        if self.answered_meanwhile is not None:
            there[self.answered_meanwhile].annotations += 1
        wanted = [change for change in changes if there[change.task_id].untouched]
        for change in wanted:
            assert not change.served
            there[change.task_id].data = dict(change.data(there[change.task_id].data, None))
        self.changed += [change.task_id for change in wanted]
        return {change.task_id for change in wanted}


@dataclass
class Registry:
    calls: list[tuple[str, frozenset[str], bool]] = field(default_factory=list)

    def step_back(self, version: str, *, reverted: Collection[str], dry_run: bool) -> dict[str, str]:
        self.calls.append((version, frozenset(reverted), dry_run))
        return {"champion": "1"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path)


@pytest.fixture
def snapshot(workspace: Workspace, make_snapshot: Make, make_scores: Scored) -> "Snapshot":
    """Two runs that each change the label of `a`."""
    snapshot = make_snapshot(workspace.folder, noisy={"a": "dark", "b": "grey"})
    for number, label in ((1, "bright"), (2, "grey")):
        append_machine(
            workspace, f"snap-run{number}", snapshot,
            make_scores(snapshot, {"a": (label, "relabel")}, version=f"fasten/{number}"), FITTED,
            mode="auto", mlflow_run_id=f"m{number}", at=NOON + timedelta(hours=number),
        )  # fmt: skip
    return snapshot


def undo(workspace: Workspace, reference: str, **more: Any) -> Undone:
    values: dict[str, Any] = {"door": None, "review": None, "registry": None, "by": "ada", "at": NOON} | more
    return undo_run(workspace, find_run(workspace, reference), **values)


def test_its_relabels_count_no_longer_and_the_run_before_speaks(workspace: Workspace, snapshot: "Snapshot") -> None:
    done = undo(workspace, "snap-run2")
    assert (done.relabels, done.before, done.withdrawn) == (1, False, 0)
    [a, _] = corrected_rows(workspace, snapshot, mode="auto")
    assert (a["label"], a["run_key"]) == ("bright", "snap-run1")


def test_unanswered_questions_are_served_no_longer_and_answered_ones_stay(
    workspace: Workspace, snapshot: "Snapshot"
) -> None:
    assert snapshot
    queue = Queue([Question(1, "snap-run2"), Question(2, "snap-run2", 1), Question(3, "snap-run1")])
    done = undo(workspace, "snap-run2", door=queue, review=REVIEW)
    assert (done.withdrawn, done.answered) == (1, 1)
    assert [q.data for q in queue.questions] == [{WITHDRAWN: REVERTED_WHY, WITHDRAWN_BY: "snap-run2"}, {}, {}]
    noted = [(row["push_key"], row["run_key"], row["why"]) for row in withdrawn_rows(workspace)]
    assert noted == [("key-1", "snap-run2", REVERTED_WHY)]


def test_what_a_push_has_withdrawn_already_stays_withdrawn_as_it_was(
    workspace: Workspace, snapshot: "Snapshot"
) -> None:
    assert snapshot
    marks = {WITHDRAWN: "no doubt", WITHDRAWN_BY: "snap-run3"}
    queue = Queue([Question(1, "snap-run2", data=dict(marks)), Question(2, "snap-run2", 1, data=dict(marks))])
    done = undo(workspace, "snap-run2", door=queue, review=REVIEW)
    assert (done.withdrawn, done.answered, queue.changed) == (0, 1, [])
    assert queue.questions[0].data == marks
    assert list(withdrawn_rows(workspace)) == []


def test_what_a_revert_that_died_has_not_noted_is_noted_by_the_next_one(
    workspace: Workspace, snapshot: "Snapshot", monkeypatch: pytest.MonkeyPatch
) -> None:
    assert snapshot
    queue = Queue([Question(1, "snap-run2"), Question(2, "snap-run2")])
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.trail.undo.mark_withdrawn", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            undo(workspace, "snap-run2", door=queue, review=REVIEW)
    assert undo(workspace, "snap-run2", door=queue, review=REVIEW).withdrawn == 0
    assert queue.changed == [1, 2]
    assert [row["push_key"] for row in withdrawn_rows(workspace)] == ["key-1", "key-2"]


def test_a_question_answered_at_the_last_moment_stays(workspace: Workspace, snapshot: "Snapshot") -> None:
    assert snapshot
    queue = Queue([Question(1, "snap-run2"), Question(2, "snap-run2")], answered_meanwhile=2)
    done = undo(workspace, "snap-run2", door=queue, review=REVIEW)
    assert (done.withdrawn, done.answered) == (1, 1)
    assert [row["push_key"] for row in withdrawn_rows(workspace)] == ["key-1"]


def test_a_dry_run_says_the_same_and_does_nothing(workspace: Workspace, snapshot: "Snapshot") -> None:
    queue, registry = Queue([Question(1, "snap-run2")]), Registry()
    done = undo(workspace, "snap-run2", door=queue, review=REVIEW, registry=registry, dry_run=True)
    assert (done.relabels, done.withdrawn, done.aliases) == (1, 1, {"champion": "1"})
    assert queue.changed == []
    assert reverted(workspace) == set()
    assert [dry for _, _, dry in registry.calls] == [True]
    assert next(corrected_rows(workspace, snapshot, mode="auto"))["label"] == "grey"


def test_reverting_twice_says_so_and_finishes_what_was_left_undone(workspace: Workspace, snapshot: "Snapshot") -> None:
    assert snapshot
    queue = Queue([Question(1, "snap-run2")], away=True)
    with pytest.raises(ServiceUnavailable):
        undo(workspace, "snap-run2", door=queue, review=REVIEW)
    queue.away = False
    again = undo(workspace, "snap-run2", door=queue, review=REVIEW, by="bob")
    assert (again.before, again.relabels, again.withdrawn) == (True, 0, 1)
    assert undo(workspace, "snap-run2", door=queue, review=REVIEW).withdrawn == 0
    assert [row["by"] for row in reverted_rows(workspace)] == ["ada"]


def test_the_registry_hears_of_every_version_that_was_reverted(workspace: Workspace, snapshot: "Snapshot") -> None:
    assert snapshot
    registry = Registry()
    undo(workspace, "snap-run1", registry=registry)
    assert undo(workspace, "snap-run2", registry=registry).aliases == {"champion": "1"}
    assert registry.calls == [("1", frozenset("1"), False), ("2", frozenset("12"), False)]


def test_a_run_is_found_by_key_start_of_key_mlflow_run_or_model_version(
    workspace: Workspace, snapshot: "Snapshot"
) -> None:
    assert snapshot
    for reference in ("snap-run1", "m1", "fasten/1"):
        assert find_run(workspace, reference).run_key == "snap-run1"
    with pytest.raises(DataError, match="start of several runs"):
        find_run(workspace, "snap-r")
    for unknown in ("snap", "", "../snap-run1", "m3"):
        with pytest.raises(DataError, match=r"is kept \(the latest: snap-run2, snap-run1\)"):
            find_run(workspace, unknown)
