"""`fasten gc`, `fasten snapshots` and `fasten diff` of a workspace that others share."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.settings import load_settings
from pipeline.snapshot_store import obtain, share
from pipeline.stack import health
from pipeline.trail import keep_people
from pipeline.workspace import Workspace
from tests.integration.snapshot_store.shared import NOON, Bucket, files_of, fill

if TYPE_CHECKING:
    from tests.integration.conftest import MlflowServer


@pytest.fixture
def shared(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose store is the bucket, and which nobody has pulled into."""
    for name, value in {
        "SNAPSHOT_STORE": f"s3://{bucket.name}/team/fasten",
        "S3_ENDPOINT": bucket.endpoint,
        "S3_REGION": "us-east-1",
        "DATA_DIR": str(tmp_path / "data"),
        "LABELS_PROJECT": "7",
    }.items():
        monkeypatch.setenv(f"FASTEN_{name}", value)
    monkeypatch.chdir(tmp_path)
    return Workspace(folder=tmp_path / "data" / "project-7")


def fasten(*arguments: str) -> list[str]:
    """What the command prints; its error where it ends in one."""
    result = CliRunner().invoke(app, arguments)
    return (result.stdout if result.exit_code == 0 else result.stderr).splitlines()


GC = ("gc", "--keep", "0", "--days", "0")


def test_what_mlflow_refers_to_is_never_collected_unless_told(
    bucket: Bucket, shared: Workspace, mlflow_server: "MlflowServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    names = ("input", "tag", "champion", "deleted run", "under way", "no run", "latest")
    for number, name in enumerate(names):
        made[name] = fill(shared.folder, {f"{name} {number}": "dark"})
        share(load_settings(), shared, made[name])
    keep_people(shared, NOON)
    ids = {name: snapshot.snapshot_id for name, snapshot in made.items()}
    tracking, elsewhere = mlflow_server.door("collected"), mlflow_server.door("another experiment")
    client = mlflow_server.client

    with elsewhere.start("input", tags={}) as run:
        run.log_dataset(bucket.store.snapshot_uri(ids["input"]), ids["input"], {})
    with tracking.start("tag", tags={"fasten.snapshot_id": ids["tag"]}):
        pass
    for name in ("champion", "deleted run"):
        with tracking.start(name.replace(" ", "-"), tags={}) as run:
            run.log_dataset(made[name].path, ids[name], {})
        if name == "champion":
            client.create_registered_model("collected")
            client.create_model_version("collected", source=f"runs:/{run.run_id}/model", run_id=run.run_id)
            client.set_registered_model_alias("collected", "champion", "1")
        client.delete_run(run.run_id)  # of the champion's the version still tells
    tracking.start("under-way", tags={"fasten.snapshot_id": ids["under way"]})

    def left() -> set[str]:
        here = {path.name for path in (shared.folder / "snapshots").iterdir()}
        assert here == bucket.store.snapshots().keys()
        return {name for name in names if ids[name] in here}

    monkeypatch.setenv("FASTEN_MLFLOW_MODEL_NAME", "collected")
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", f"http://127.0.0.1:{health.free_port()}")
    [refusal] = fasten(*GC, "--referenced")
    assert "could not look up what refers to snapshots" in refusal
    assert left() == set(names)

    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", mlflow_server.uri)
    rows = {row.split()[0]: row for row in fasten("snapshots")}
    assert "1 run in MLflow" in rows[ids["input"]]
    assert "champion, 1 run in MLflow" in rows[ids["champion"]]
    assert rows[ids["deleted run"]].split()[-1] == "–"
    dry = fasten(*GC, "--dry-run")
    assert dry[0] == "would remove 2 of 7 snapshots"
    assert left() == set(names)
    assert fasten(*GC)[0] == "removing 2 of 7 snapshots"
    assert left() == {"input", "tag", "champion", "under way", "latest"}
    told = fasten(*GC, "--referenced", "--images")
    assert told[0] == "removing 2 of 5 snapshots"
    assert all("; MLflow runs refer to it: " in line for line in told[1:3])
    assert left() == {"champion", "under way", "latest"}
    assert {name for name in bucket.objects() if name.startswith("images/part-")} == {
        f"images/{part.name}" for part in (shared.folder / "images").glob("part-*.parquet")
    }
    for name in left():
        obtained = obtain(bucket.store, ids[name], shared.folder.parent / f"reader of {name}")
        assert files_of(obtained) == files_of(made[name])
    assert len(list((shared.folder / "images").glob("part-*.parquet"))) == 3


def test_a_difference_is_told_of_snapshots_that_only_the_store_has(shared: Workspace) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTEN_DATA_DIR", str(shared.folder.parents[1] / "elsewhere"))
        there = Workspace(folder=shared.folder.parents[1] / "elsewhere" / "project-7")
        for samples in ({"a": "dark", "b": "dark"}, {"a": "bright", "b": "dark"}):
            share(load_settings(), there, fill(there.folder, samples))
    lines = fasten("diff")
    assert lines[1] == "samples: 1 with another label, 0 moved with the same, 0 added, 0 removed"
    assert lines[-1].split() == [
        "a",
        "noisy",
        "“dark”",
        "noisy",
        "“bright”",
        "user:1",
        "(labels,",
        "2026-03-01",
        "12:00)",
    ]
    assert not (shared.folder / "images").exists()
    assert len(list((shared.folder / "snapshots").iterdir())) == 2
