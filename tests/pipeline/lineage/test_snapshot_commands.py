"""`fasten snapshots`, `fasten diff` and `fasten gc`: what they print, and how they refuse."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from pipeline import tracking
from pipeline.cli.app import app
from pipeline.errors import ServiceUnavailable
from pipeline.snapshot import open_snapshot
from pipeline.snapshot_store import SnapshotStore, publish
from pipeline.tracking import SnapshotUse
from pipeline.trail import keep_people
from pipeline.workspace import Completed, Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def mlflow(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[SnapshotUse]:
    """What MLflow knows; empty, to be filled."""
    assert workspace  # its settings come first
    uses: list[SnapshotUse] = []

    class Known:
        def __init__(self, _: Any) -> None: ...

        def snapshot_uses(self) -> list[SnapshotUse]:
            return uses

    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(tracking, "Tracking", Known)
    return uses


@pytest.fixture
def silent_mlflow(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workspace  # its settings come first

    class Silent:
        def __init__(self, _: Any) -> None: ...

        def snapshot_uses(self) -> list[SnapshotUse]:
            raise ServiceUnavailable("MLflow at http://127.0.0.1:1 could not look up: connection refused")

    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(tracking, "Tracking", Silent)


def use(snapshot: "Snapshot", *aliases: str) -> SnapshotUse:
    return SnapshotUse(snapshot_id=snapshot.snapshot_id, run_id="abc", run_name="", under_way=False, aliases=aliases)


def fasten(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def shown(*arguments: str) -> list[str]:
    result = fasten(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.rstrip() for line in result.stdout.splitlines()]


def refused(*arguments: str) -> str:
    result = fasten(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    return line.removeprefix("fasten: error: ")


def test_the_list_says_what_is_in_each_who_uses_it_and_where_it_is(
    workspace: Workspace,
    store: SnapshotStore,
    line: list["Snapshot"],
    mlflow: list[SnapshotUse],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [snapshot.snapshot_id for snapshot in line]
    mlflow += [use(line[0], "champion"), use(line[0]), use(line[1])]
    workspace.remember(Completed(fingerprint="", snapshot_id=ids[2], config="", run_key="k"))
    workspace.run_folder(f"{ids[2][:12]}-{'0' * 12}").mkdir(parents=True)
    publish(store, open_snapshot(line[3].path), workspace.folder / "images")
    monkeypatch.setenv("FASTEN_SNAPSHOT_STORE", str(Path(store.uri).parent))
    rows = [row.split() for row in shown("snapshots")]
    assert rows[0][:3] == ["SNAPSHOT", "PULLED", "PARENT"]
    assert rows[1] == [ids[3], "2026-05-22", "00:00", ids[2], "4", "0", "0", "0", "both", "latest"]
    assert " ".join(rows[2][8:]) == "local last round, 1 run here"
    assert " ".join(rows[3][8:]) == "local 1 run in MLflow"
    assert rows[4][3] == "–"
    assert " ".join(rows[4][8:]) == "local champion, 2 runs in MLflow"
    told = json.loads("\n".join(shown("snapshots", "--json")))
    assert [one["snapshot_id"] for one in told] == ids[::-1]
    assert told[0] | {"created_at": ""} == {
        "snapshot_id": ids[3],
        "created_at": "",
        "parent": ids[2],
        "schema_version": line[3].manifest.schema_version,
        "rows": {"labels": 4, "noisy": 4, "clean": 0, "undecided": 0},
        "left_out": {},
        "local": True,
        "stored": True,
        "latest": True,
        "last_completed_round": False,
        "aliases": [],
        "mlflow_runs": [],
        "local_runs": [],
    }
    assert told[3]["mlflow_runs"] == ["abc", "abc"]


@pytest.mark.usefixtures("silent_mlflow", "line")
def test_the_list_does_without_mlflow_and_says_so() -> None:
    result = fasten("snapshots")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 5
    [complaint] = result.stderr.splitlines()
    assert complaint.startswith("runs of MLflow are not told: MLflow at http://127.0.0.1:1")
    assert {one["mlflow_runs"] for one in json.loads(fasten("snapshots", "--json").stdout)} == {None}


@pytest.mark.usefixtures("workspace", "mlflow")
def test_before_the_first_pull_there_is_nothing_to_list() -> None:
    assert shown("snapshots") == ["nothing has been pulled yet: run `fasten retrain`"]
    assert shown("snapshots", "--json") == ["[]"]
    assert "nothing has been pulled into" in refused("diff")


def test_a_difference_is_figures_first_and_then_samples(workspace: Workspace, make_snapshot: Make) -> None:
    nasty = "dark[red]\n:cat:\x1b[2J"
    labels = [{"sample_id": f"s{number}", "annotation_id": number, "label": "dark"} for number in range(3)]
    classes = ("dark", "grey", nasty)
    before = make_snapshot(workspace.folder, labels=labels, noisy={"s0": "dark", "s1": "dark"}, classes=classes)
    labels[0] = labels[0] | {"label": nasty, "annotator": "user:1[/]"}
    after = make_snapshot(
        workspace.folder, labels=labels, noisy={"s0": nasty}, clean={"s1": ("grey", "dark", "audit")}, classes=classes
    )
    lines = shown("diff")
    assert lines[0].startswith(f"{before.snapshot_id} (")
    assert f"→ {after.snapshot_id} (" in lines[0]
    assert lines[1:4] == [
        "samples: 2 with another label, 0 moved with the same, 0 added, 0 removed",
        "  noisy → clean: 1",
        "answers of user:1[/]: 1 changed",
    ]
    assert lines[4:6] == ["", lines[5]]
    assert lines[5].split() == ["SAMPLE", "WAS", "IS", "BY"]
    first, second = lines[6:]
    assert first.split(maxsplit=3)[:3] == ["s0", "noisy", "“dark”"]
    assert "noisy “dark[red] :cat:�[2J”" in first
    assert first.endswith("user:1[/] (labels, 2026-03-01 12:00)")
    assert second.split() == ["s1", "noisy", "“dark”", "clean", "“grey”", "user:9", "(audit,", "2026-03-01", "12:00)"]
    assert shown("diff", "latest~1", "latest") == lines
    assert shown("diff", "--top", "1")[-1] == "… and 1 more: --top 2"
    assert shown("diff", "latest", "latest")[1:] == ["no label differs"]
    told = json.loads("\n".join(shown("diff", before.snapshot_id[:8], "--json")))
    assert told["samples"] == {"relabelled": 2}
    assert told["moves"] == [{"was": "noisy", "is": "clean", "samples": 1}]
    assert told["changes"][1] == {
        "sample_id": "s1",
        "kind": "relabelled",
        "was": {"place": "noisy", "label": "dark"},
        "is": {"place": "clean", "label": "grey"},
        "by": [{"who": "user:9", "how": "audit", "at": "2026-03-01T12:00:00+00:00"}],
    }
    assert len(json.loads("\n".join(shown("diff", "--json", "--top", "1")))["changes"]) == 1


def test_gc_says_what_would_go_and_why_the_rest_stays_and_then_does_it(
    workspace: Workspace, line: list["Snapshot"], mlflow: list[SnapshotUse]
) -> None:
    keep_people(workspace, NOON)
    ids = [snapshot.snapshot_id for snapshot in line]
    mlflow += [use(line[0]), use(line[1], "champion")]
    everything = ("gc", "--keep", "0", "--days", "0")
    dry = shown(*everything, "--dry-run")
    assert dry[0] == "would remove 1 of 4 snapshots"
    assert dry[1].split()[0] == ids[2]
    assert dry[2:] == [
        f"  {ids[3]} stays: latest",
        f"  {ids[1]} stays: champion, 1 MLflow run",
        f"  {ids[0]} stays: 1 MLflow run",
    ]
    assert shown("gc", "--days", "0")[0] == "removing 0 of 4 snapshots"
    assert all(snapshot.path.exists() for snapshot in line)
    assert shown(*everything)[0] == "removing 1 of 4 snapshots"
    assert [snapshot.path.exists() for snapshot in line] == [True, True, False, True]
    told = shown(*everything, "--referenced", "--images")
    assert told[0] == "removing 1 of 3 snapshots"
    assert told[1].endswith("local; MLflow runs refer to it: abc")
    assert told[2] == "removing 0 image files, 0.0 MB"
    assert [snapshot.path.exists() for snapshot in line] == [False, True, False, True]


@pytest.mark.usefixtures("silent_mlflow")
@pytest.mark.parametrize("option", ["--referenced", "--images", "--dry-run"])
def test_gc_does_nothing_where_mlflow_does_not_answer(
    workspace: Workspace, line: list["Snapshot"], option: str
) -> None:
    keep_people(workspace, NOON)
    assert "MLflow at http://127.0.0.1:1 could not look up" in refused("gc", "--keep", "0", "--days", "0", option)
    assert all(snapshot.path.exists() for snapshot in line)


def test_gc_does_nothing_where_no_mlflow_is_set(workspace: Workspace, line: list["Snapshot"]) -> None:
    keep_people(workspace, NOON)
    assert refused("gc", "--keep", "0", "--days", "0").startswith("no MLflow is set")
    assert all(snapshot.path.exists() for snapshot in line)
