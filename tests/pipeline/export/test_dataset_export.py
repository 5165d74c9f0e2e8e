"""The corrected labels leave as a folder that Hugging Face's own library opens, whole or not at all."""

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import run
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.export import dataset, write_dataset
from pipeline.export.by_image import LabelsOnDisk
from pipeline.images import ImageStore
from pipeline.images.check import VerifiedImage
from pipeline.trail import append_machine, keep_people, mark_reverted
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {"relabels": {"rho": 0.8}, "transition": [[0.8, 0.1, 0.1]] * 3}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path / "project-1")


@pytest.fixture
def snapshot(workspace: Workspace, make_snapshot: Make, make_squares: Callable[..., Any]) -> "Snapshot":
    snapshot = make_snapshot(
        workspace.folder,
        noisy={"a": "dark", "b": "grey"},
        clean={"c": ("dark", None, "audit")},
        undecided={"d": ("grey", "unusable", ())},
    )
    hashes = pq.read_table(snapshot.noisy_path)["image_sha256"].to_pylist()
    hashes += pq.read_table(snapshot.clean_path)["image_sha256"].to_pylist()
    with ImageStore(workspace.folder) as store:
        for sha256, (_, data, _) in zip(hashes, make_squares("s", 3), strict=True):
            store.add(f"/{sha256}", VerifiedImage(data=data, sha256=sha256, width=8, height=8, format="PNG"))
    return snapshot


@pytest.fixture
def relabelled(workspace: Workspace, snapshot: "Snapshot", make_scores: Scored) -> "Snapshot":
    scores = make_scores(snapshot, {"a": ("grey", "relabel")})
    append_machine(workspace, "run-1", snapshot, scores, FITTED, mode="auto", mlflow_run_id="m", at=NOON)
    return snapshot


def opened(out: Path, how: str) -> list[dict[str, Any]]:
    """What `datasets` makes of the folder, in a process that reaches nothing and keeps its cache beside it."""
    code = f"""
import datasets, json
found = {how}
print(json.dumps([repr(found.features[name]) for name in ("image", "label", "given_label")]))
rows = [row | {{"image": list(row["image"].size), "decided_at": str(row["decided_at"])}} for row in found]
print(json.dumps(rows))
"""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(out.parent / "hf"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=offline)
    assert done.returncode == 0, done.stderr
    features, rows = done.stdout.splitlines()
    assert [kind.partition("(")[0] for kind in json.loads(features)] == ["Image", "ClassLabel", "ClassLabel"]
    found: list[dict[str, Any]] = json.loads(rows)
    return sorted(found, key=lambda row: str(row["sample_id"]))


@pytest.mark.parametrize(
    "load",
    [
        "datasets.load_dataset('parquet', data_files={out!r} + '/data/*.parquet', split='train')",
        "datasets.load_dataset({out!r}, split='train')",
    ],
)
def test_the_datasets_library_finds_images_classes_and_soft_labels(
    load: str, workspace: Workspace, relabelled: "Snapshot", tmp_path: Path
) -> None:
    out = tmp_path / "corrected"
    exported, new = write_dataset(out, workspace, relabelled, mode="auto")
    assert new
    assert exported.by_source == {"audit": 1, "model": 1, "original": 1}
    a, b, c = opened(out, load.format(out=str(out)))
    assert (a["label"], a["given_label"], a["source"], a["decided_by"]) == (2, 1, "model", "fasten/1")
    assert a["soft_label"] == pytest.approx([0.05, 0.05, 0.9])
    assert (b["label"], b["given_label"], b["source"], b["decided_by"]) == (2, 2, "original", None)
    assert (c["label"], c["given_label"], c["source"], c["soft_label"]) == (1, None, "audit", [0, 1, 0])
    assert {tuple(row["image"]) for row in (a, b, c)} == {(8, 8)}


def test_the_history_tells_how_each_changed_label_came_about(
    workspace: Workspace, make_snapshot: Make, make_scores: Scored, snapshot: "Snapshot", tmp_path: Path
) -> None:
    for number, hours in ((1, 0), (2, 1)):
        scores = make_scores(snapshot, {"a": ("grey", "relabel"), "b": ("dark", "relabel")}, version=f"fasten/{number}")
        append_machine(
            workspace, f"run-{number}", snapshot, scores, FITTED, mode="auto", mlflow_run_id="m",
            at=NOON + timedelta(hours=hours),
        )  # fmt: skip
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    said = {"sample_id": "b", "origin": "review", "annotation_id": 5, "annotator": "user:5", "asked_by_run": "run-1"}
    vote = {"sample_id": "a", "annotation_id": 1, "label": "dark"}
    noisy, clean = {"a": "dark"}, {"b": ("bright", "grey", "review")}
    reviewed = make_snapshot(workspace.folder, labels=[vote, said | {"label": "bright"}], noisy=noisy, clean=clean)
    keep_people(workspace, NOON)
    write_dataset(tmp_path / "out", workspace, reviewed, mode="auto")
    rows = pq.read_table(tmp_path / "out" / "history.parquet").to_pylist()
    assert [(row["sample_id"], row["who"], row["label"], row["outcome"], row["run_key"]) for row in rows] == [
        ("a", "fasten/1", "grey", "reverted", "run-1"),
        ("b", "fasten/1", "dark", "reverted", "run-1"),
        ("a", "fasten/2", "grey", "applied", "run-2"),
        ("b", "fasten/2", "dark", "applied", "run-2"),
        ("b", "user:5", "bright", "chose another class", "run-1"),
    ]
    write_dataset(tmp_path / "suggest", workspace, reviewed, mode="suggest")
    rows = pq.read_table(tmp_path / "suggest" / "history.parquet").to_pylist()
    assert {row["sample_id"] for row in rows} == {"b"}, "what the machine only suggests has not changed"


def content(out: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_same_labels_are_not_written_twice_and_others_replace_them(
    workspace: Workspace, relabelled: "Snapshot", tmp_path: Path
) -> None:
    out = tmp_path / "corrected"
    write_dataset(out, workspace, relabelled, mode="auto")
    before = content(out)
    assert write_dataset(out, workspace, relabelled, mode="auto")[1] is False
    assert write_dataset(tmp_path / "second", workspace, relabelled, mode="auto")[1] is True
    assert content(tmp_path / "second") == before
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    exported, new = write_dataset(out, workspace, relabelled, mode="auto")
    assert new
    assert exported.by_source == {"audit": 1, "original": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrected", "project-1", "second"]


def test_a_damaged_export_is_written_anew(workspace: Workspace, relabelled: "Snapshot", tmp_path: Path) -> None:
    out = tmp_path / "corrected"
    write_dataset(out, workspace, relabelled, mode="auto")
    before = content(out)
    (out / "data" / "part-00000.parquet").write_bytes(b"")
    assert write_dataset(out, workspace, relabelled, mode="auto")[1] is True
    assert content(out) == before


def test_a_folder_that_holds_something_else_is_left_alone(
    workspace: Workspace, relabelled: "Snapshot", tmp_path: Path
) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    write_dataset(out, workspace, relabelled, mode="auto")  # an empty one is taken
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    (out / "data" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'data/notes.txt', which no export wrote"):
        write_dataset(out, workspace, relabelled, mode="suggest")
    assert (out / "data" / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="cannot be replaced by an export"):
        write_dataset(Path("/"), workspace, relabelled, mode="suggest")
    with pytest.raises(DataError, match="no export of corrected labels: name another folder"):
        write_dataset(other, workspace, relabelled, mode="auto")
    with pytest.raises(DataError, match="no export"):
        write_dataset(other / "manifest.json", workspace, relabelled, mode="auto")
    assert content(other) == {"manifest.json": b"{}"}


@pytest.mark.parametrize("step", ["_write_shards", "_card", "_place"])
def test_an_export_that_fails_leaves_the_one_before(
    step: str, workspace: Workspace, relabelled: "Snapshot", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "corrected"
    write_dataset(out, workspace, relabelled, mode="suggest")
    before = content(out)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(dataset, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(out, workspace, relabelled, mode="auto")
    assert content(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrected", "project-1"]


def test_what_an_export_that_was_killed_left_behind_is_put_right(
    workspace: Workspace, relabelled: "Snapshot", tmp_path: Path
) -> None:
    out = tmp_path / "corrected"
    write_dataset(out, workspace, relabelled, mode="suggest")
    before = content(out)
    out.replace(tmp_path / ".corrected.before")  # killed between two names
    (tmp_path / ".corrected.staged" / "data").mkdir(parents=True)
    assert write_dataset(out, workspace, relabelled, mode="suggest")[1] is False
    assert content(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrected", "project-1"]


@pytest.mark.parametrize(("group", "shard", "rows"), [(1, 1, [1, 1, 1]), (1, 2, [2, 1]), (3, 3, [3]), (2, 100, [3])])
def test_shards_are_bounded_and_none_is_empty(
    group: int,
    shard: int,
    rows: list[int],
    workspace: Workspace,
    relabelled: "Snapshot",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset, "GROUP_ROWS", group)
    monkeypatch.setattr(dataset, "SHARD_ROWS", shard)
    write_dataset(tmp_path / "out", workspace, relabelled, mode="auto")
    parts = sorted((tmp_path / "out" / "data").iterdir())
    assert [pq.read_metadata(part).num_rows for part in parts] == rows


def test_an_image_that_two_samples_show_is_exported_with_both() -> None:
    row = {
        "image_sha256": "5a",
        "label": "dark",
        "given_label": None,
        "decided_at": NOON,
        "soft_label": [0.5, 0.5, 0.0],
    }
    labels = LabelsOnDisk([row | {"sample_id": "b"}, row | {"sample_id": "a"}])
    assert list(labels.hashes()) == ["5a"]
    assert [found["sample_id"] for found in labels.of_image("5a")] == ["a", "b"]
    assert labels.of_sample("a") == row | {"sample_id": "a"}
    assert labels.of_sample("c") is None
    labels.close()
