"""What a run said and did of every sample is kept once, whatever happens to the run."""

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.errors import DataError
from pipeline.records import ReviewTask
from pipeline.trail import (
    append_asked,
    append_machine,
    asked_rows,
    machine_rows,
    machine_runs,
    mark_reverted,
    mark_withdrawn,
    reverted,
    reverted_rows,
    withdrawn_rows,
)
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {
    "relabels": {"rho": 0.8, "per_class": None},
    "transition": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]],
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path)


@pytest.fixture
def snapshot(workspace: Workspace, make_snapshot: Make) -> "Snapshot":
    return make_snapshot(workspace.folder, noisy={"a": "dark", "b": "grey", "c": "bright"})


def append(workspace: Workspace, snapshot: "Snapshot", scores: pa.Table, **more: Any) -> Path:
    values: dict[str, Any] = {"mode": "auto", "mlflow_run_id": "m1", "at": NOON} | more
    fitted = values.pop("fitted", FITTED)
    return append_machine(workspace, values.pop("run_key", "run-1"), snapshot, scores, fitted, **values)


def question(key: str, sample: str, **more: Any) -> ReviewTask:
    values: dict[str, Any] = {"asked_as": "targeted", "current_label": "dark", "model_label": "grey"} | more
    return ReviewTask(
        push_key=key, sample_id=sample, image_url="/x.png", confidence=0.7, reason="doubt", priority=0.3,
        model_version="fasten/1", **values,
    )  # fmt: skip


def test_a_row_tells_what_was_said_what_was_done_and_on_what_grounds(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    append(workspace, snapshot, make_scores(snapshot, {"a": ("grey", "relabel"), "b": ("dark", "low_confidence")}))
    [row] = machine_rows(workspace, "a")
    assert row["votes"] == [{"annotator": "user:1", "label": "dark"}]
    assert (row["given_label"], row["suggestion"], row["label"], row["applied"]) == ("dark", "grey", "grey", True)
    assert row["transition_row"] == pytest.approx([0.0, 0.1, 0.9]), "classes are bright, dark, grey"
    assert row["posterior"] == pytest.approx([0.05, 0.05, 0.9])
    assert (row["rho"], row["run_key"], row["mlflow_run_id"], row["at"]) == (0.8, "run-1", "m1", NOON)
    assert [(row["sample_id"], row["label"], row["applied"]) for row in machine_rows(workspace)] == [
        ("a", "grey", True),
        ("b", "grey", False),
        ("c", "bright", False),
    ]


def test_in_mode_suggest_nothing_is_applied(workspace: Workspace, snapshot: "Snapshot", make_scores: Scored) -> None:
    append(workspace, snapshot, make_scores(snapshot, {"a": ("grey", "relabel")}), mode="suggest")
    [row] = machine_rows(workspace, "a")
    assert (row["decision"], row["applied"], row["label"]) == ("relabel", False, "dark")


def test_the_rho_of_a_row_is_that_of_its_class(workspace: Workspace, snapshot: "Snapshot", make_scores: Scored) -> None:
    fitted = FITTED | {"relabels": {"rho": 0.8, "per_class": [0.7, 0.8, 0.99]}}
    append(workspace, snapshot, make_scores(snapshot, {"a": ("grey", "relabel")}), fitted=fitted)
    assert [row["rho"] for row in machine_rows(workspace)] == [0.99, 0.99, 0.7]


def test_a_run_that_is_kept_is_left_as_it_is(workspace: Workspace, snapshot: "Snapshot", make_scores: Scored) -> None:
    first = append(workspace, snapshot, make_scores(snapshot, {"a": ("grey", "relabel")}))
    before = first.read_bytes()
    assert append(workspace, snapshot, make_scores(snapshot, {}), at=NOON + timedelta(days=1)) == first
    assert first.read_bytes() == before
    append(workspace, snapshot, make_scores(snapshot, {}), run_key="run-2", at=NOON + timedelta(days=2))
    assert [run.run_key for run in machine_runs(workspace)] == ["run-2", "run-1"]


def test_a_write_that_fails_leaves_nothing(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            append(workspace, snapshot, make_scores(snapshot, {}))
    assert [path.name for path in (workspace.folder / "trail").rglob("*.parquet*")] == []
    assert machine_runs(workspace) == []


def test_scores_of_another_snapshot_are_refused(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored, make_snapshot: Make
) -> None:
    other = make_snapshot(workspace.folder, noisy={"a": "dark", "z": "grey"})
    with pytest.raises(DataError, match="'z' is none of snapshot"):
        append(workspace, snapshot, make_scores(other, {}))
    assert machine_runs(workspace) == []


def test_a_run_key_that_would_leave_the_folder_is_refused(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    with pytest.raises(DataError, match="names no run"):
        append(workspace, snapshot, make_scores(snapshot, {}), run_key="../../etc")


def test_questions_are_kept_once_and_unshown_ones_without_a_suggestion(workspace: Workspace) -> None:
    asked = [question("k1", "b"), question("k2", "a", asked_as="audit")]
    assert append_asked(workspace, "run-1", asked[:1], NOON) == 1
    assert append_asked(workspace, "run-1", asked, NOON) == 1
    assert append_asked(workspace, "run-1", asked, NOON) == 0
    assert [(row["push_key"], row["suggestion"]) for row in asked_rows(workspace)] == [("k1", "grey"), ("k2", None)]
    assert append_asked(workspace, "run-10", asked[:1], NOON) == 1, "asked again, by another run"
    assert [row["run_key"] for row in asked_rows(workspace, "b")] == ["run-1", "run-10"]
    assert [row["sample_id"] for row in asked_rows(workspace, run_key="run-1")] == ["b", "a"]


_DIES = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from pipeline.trail.files import folder, one_writer, write_rows
from pipeline.trail.schema import REVERTED
from pipeline.workspace import Workspace

def rows():
    for number in range(20_000):
        yield {"run_key": f"run-{number}", "by": "ada", "at": datetime(2026, 1, 1, tzinfo=UTC)}
    os.kill(os.getpid(), signal.SIGKILL)

workspace = Workspace(folder=Path(sys.argv[1]))
with one_writer(workspace):
    write_rows(folder(workspace, "reverted") / "run-1.parquet", REVERTED, rows())
"""


def test_what_a_writer_that_was_killed_has_left_goes_with_the_next_write(workspace: Workspace) -> None:
    died = subprocess.run([sys.executable, "-c", _DIES, str(workspace.folder)], check=False)
    assert died.returncode == -signal.SIGKILL
    left = {path.name for path in (workspace.folder / "trail").glob("*/*")}
    assert len(left) == 1
    assert left.pop().startswith(".run-1.parquet.")
    assert reverted(workspace) == set()
    assert mark_withdrawn(workspace, "run-2", {"k1": "a"}, at=NOON) == 1
    assert {path.name for path in (workspace.folder / "trail").glob("*/*")} == {"run-2-0000.parquet"}


def test_a_run_is_reverted_once_and_its_questions_are_withdrawn_once(workspace: Workspace) -> None:
    assert reverted(workspace) == set()
    assert mark_reverted(workspace, "run-1", by="ada", at=NOON)
    assert not mark_reverted(workspace, "run-1", by="bob", at=NOON)
    assert reverted(workspace) == {"run-1"}
    assert [row["by"] for row in reverted_rows(workspace)] == ["ada"]
    assert mark_withdrawn(workspace, "run-1", {"k1": "b"}, at=NOON) == 1
    assert mark_withdrawn(workspace, "run-1", {"k1": "b", "k2": "a"}, at=NOON) == 1
    assert mark_withdrawn(workspace, "run-1", {"k1": "b", "k2": "a"}, at=NOON) == 0
    assert [row["push_key"] for row in withdrawn_rows(workspace)] == ["k1", "k2"]
    assert [row["push_key"] for row in withdrawn_rows(workspace, "a")] == ["k2"]
