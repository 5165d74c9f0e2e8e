"""`fasten history`, `fasten export` and `fasten revert`: what they print, and how they refuse."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from pipeline import label_studio, loop, tracking
from pipeline.cli.app import app
from pipeline.records import LabelControl, Project
from pipeline.trail import append_machine, append_people, reverted, reverted_rows
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {"relabels": {"rho": 0.8}, "transition": [[0.8, 0.1, 0.1]] * 3}
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("bright", "dark", "grey"))


@pytest.fixture
def workspace(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("FASTEN_DATA_DIR", str(own_folder / "data"))
    monkeypatch.setenv("FASTEN_LABELS_PROJECT", "7")
    return Workspace(folder=own_folder / "data" / "project-7")


@pytest.fixture
def snapshot(workspace: Workspace, make_snapshot: Make, make_scores: Scored) -> "Snapshot":
    labels = [{"sample_id": name, "label": "dark", "annotation_id": n} for n, name in enumerate(("a", "bee"))]
    snapshot = make_snapshot(workspace.folder, labels=labels, noisy={"a": "dark", "bee": "grey"})
    append_people(workspace, snapshot, NOON)
    scores = make_scores(snapshot, {"a": ("grey", "relabel")})
    append_machine(workspace, "run-1", snapshot, scores, FITTED, mode="auto", mlflow_run_id="m", at=NOON)
    return snapshot


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio and MLflow that have nothing to take back."""
    labels = Project(project_id=7, title="labels", control=CONTROL)

    @contextmanager
    def door(_: Any) -> Iterator[None]:
        yield None

    class Registry:
        def __init__(self, _: Any) -> None: ...

        def step_back(self, version: str, **_: Any) -> dict[str, str]:
            assert version == "1"
            return {"champion": "0"}

    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TOKEN", "0" * 40)
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(label_studio, "LabelStudio", door)
    monkeypatch.setattr(tracking, "Tracking", Registry)
    monkeypatch.setattr(loop, "find_projects", lambda *_: (labels, None, None))


def fasten(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def refused(*arguments: str) -> str:
    result = fasten(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    return line.removeprefix("fasten: error: ")


@pytest.mark.usefixtures("snapshot")
def test_history_tells_the_story_and_what_is_handed_out_in_the_mode_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = fasten("history", "a").stdout.splitlines()
    assert lines[0] == "2026-03-01 12:00:00  user:1  answered “dark” in 2.5 s (labels project): voted"
    assert lines[1].startswith("2026-03-01 12:00:00  run run-1, fasten/1  changed “dark” to “grey”: q “grey” 90%")
    assert lines[2:] == [
        "today: “dark” (original): run run-1 suggests “grey”, but only people change labels (mode suggest)"
    ]
    monkeypatch.setenv("FASTEN_MODE", "auto")
    assert fasten("history", "a").stdout.splitlines()[-1] == "today: “grey” (model): run run-1 changed it (mode auto)"


@pytest.mark.usefixtures("snapshot")
def test_history_of_an_unknown_sample_names_near_ones() -> None:
    assert refused("history", "bees") == (
        "no sample 'bees' is known (near: bee): a task's sample_id, or ls:PROJECT:TASK, is its name"
    )


@pytest.mark.usefixtures("snapshot")
def test_a_name_that_is_not_text_is_one_line() -> None:
    assert refused("history", "a\udcff") == "'a\\udcff' is no sample's name: names are UTF-8"


def test_an_event_is_one_line_whatever_a_class_is_called(workspace: Workspace, make_snapshot: Make) -> None:
    vote = {"sample_id": "ls:100:5", "label": "dark\ntoday: :cat:"}
    snapshot = make_snapshot(
        workspace.folder, labels=[vote], noisy={"ls:100:5": vote["label"]}, classes=("bright", vote["label"])
    )
    append_people(workspace, snapshot, NOON)
    answered, today = fasten("history", "ls:100:5").stdout.splitlines()
    assert "answered “dark today: :cat:”" in answered
    assert today.startswith("today: “dark today: :cat:” (original)")


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("command", [["history", "a"], ["export", "--out", "x"]])
def test_before_the_first_pull_there_is_nothing_to_tell(command: list[str]) -> None:
    assert refused(*command) == "nothing of project 7 has been pulled yet: run `fasten retrain`"


@pytest.mark.usefixtures("own_folder")
def test_without_a_labels_project_the_setting_is_named() -> None:
    assert "set FASTEN_LABELS_PROJECT" in refused("history", "a")


@pytest.mark.usefixtures("snapshot")
def test_export_refuses_what_makes_no_sense_and_says_what_it_would_write(own_folder: Path) -> None:
    assert refused("export") == "nothing to do: give --out DIR, --to-project TITLE or --as-user EMAIL"
    assert refused("export", "--as-user", "m@x.org").endswith("in mode suggest it changes nothing: --mode auto")
    assert fasten("export", "--out", "out", "--dry-run").stdout == "2 labels would be written to out\n"
    assert not (own_folder / "out").exists()


def test_export_says_that_no_round_counts(workspace: Workspace, make_snapshot: Make) -> None:
    snapshot = make_snapshot(workspace.folder, noisy={"a": "dark"})
    append_people(workspace, snapshot, NOON)
    assert fasten("export", "--out", "out", "--dry-run").stdout.splitlines() == [
        "1 labels would be written to out",
        "no round counts (none is completed, or all are reverted): what people have not decided is as it was given",
    ]


@pytest.mark.usefixtures("snapshot", "servers")
def test_revert_says_what_it_undid_and_the_second_time_that_it_did(workspace: Workspace) -> None:
    undone = [
        "relabels that count no longer: 1",
        "unanswered questions served no longer: 0 (answered ones, which stay: 0)",
        "champion: version 0 again",
    ]
    dry = fasten("revert", "run-1", "--dry-run").stdout.splitlines()
    assert dry == ["a dry run: this is what would be undone", *undone]
    assert reverted(workspace) == set()
    assert fasten("revert", "run-1", "--by", "ada").stdout.splitlines() == undone
    assert reverted(workspace) == {"run-1"}
    assert fasten("revert", "run-1").stdout.splitlines()[0] == "run run-1 was reverted before"
    assert refused("revert", "run-9").startswith("no run 'run-9' is kept (the latest: run-1)")


@pytest.mark.usefixtures("snapshot", "servers")
def test_a_user_without_a_name_can_revert(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000730000")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert fasten("revert", "run-1").exit_code == 0
    [row] = reverted_rows(workspace)
    assert row["by"].startswith("uid ")
