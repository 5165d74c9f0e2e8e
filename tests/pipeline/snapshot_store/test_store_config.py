"""Where a store may be, and a folder that serves as one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.settings import load_settings
from pipeline.snapshot_store import SnapshotStore, StoreConfig, obtain, publish
from pipeline.snapshot_store import store as module

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]


@pytest.mark.parametrize(
    "location",
    [
        "s3://", "s3:///prefix", "s3://bucket/a/../b", "s3://bucket/x?region=y", "s3://bucket/x#y", "gs://bucket",
        "relative/folder", "file://host/folder", "http://host/bucket",
    ],
)  # fmt: skip
def test_what_is_no_place_is_one_line_that_names_the_setting(location: str) -> None:
    with pytest.raises(ConfigError, match="FASTEN_SNAPSHOT_STORE must look like s3://bucket/prefix"):
        StoreConfig(location=location)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="must hold no password") as caught:
        StoreConfig(location="s3://AKIAKEY:hunter2@bucket/prefix")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("s3://bucket", "s3://bucket/project-7"),
        ("s3://bucket/team/fasten/", "s3://bucket/team/fasten/project-7"),
        ("/mnt/share", "/mnt/share/project-7"),
        ("file:///mnt/a%20share", "/mnt/a share/project-7"),
    ],
)
def test_each_project_has_a_folder_of_its_own(location: str, uri: str) -> None:
    assert StoreConfig(location=location).uri_of("project-7") == uri


@pytest.mark.usefixtures("own_folder")
def test_no_store_is_set_unless_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().shared_store is None
    monkeypatch.setenv("FASTEN_SNAPSHOT_STORE", "s3://bucket/x")
    monkeypatch.setenv("FASTEN_S3_ENDPOINT", "http://127.0.0.1:9000")
    store = load_settings().shared_store
    assert store is not None
    assert (store.location, store.s3.endpoint) == ("s3://bucket/x", "http://127.0.0.1:9000")


def test_a_share_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder: make it, or mount it"):
        SnapshotStore.open(StoreConfig(location=str(tmp_path / "mnt")), "project-7")
    assert not (tmp_path / "mnt").exists()


def folder_store(root: Path) -> SnapshotStore:
    root.mkdir(exist_ok=True)
    return SnapshotStore.open(StoreConfig(location=str(root)), "project-7")


def test_a_folder_holds_what_a_bucket_would(tmp_path: Path, make_snapshot: Make) -> None:
    snapshot, store = make_snapshot(tmp_path / "here", noisy={"a": "dark"}), folder_store(tmp_path / "store")
    assert store.latest() is None
    assert (store.snapshots(), store.images()) == ({}, {})
    publish(store, snapshot, tmp_path / "here" / "images")
    there = tmp_path / "store" / "project-7"
    assert {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()} == {
        "latest.json",
        *(f"snapshots/{snapshot.snapshot_id}/{file.name}" for file in snapshot.path.iterdir()),
    }
    obtained = obtain(store, snapshot.snapshot_id, tmp_path / "there", images=False)
    assert obtained.manifest == snapshot.manifest
    store.remove_snapshot(snapshot.snapshot_id)
    assert store.snapshots() == {}
    with pytest.raises(DataError, match="is no snapshot: it was never published whole, or has been removed"):
        obtain(store, snapshot.snapshot_id, tmp_path / "elsewhere")


def test_a_file_that_is_cut_short_on_the_way_is_never_seen_under_its_name(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, store = make_snapshot(tmp_path / "here", noisy={"a": "dark"}), folder_store(tmp_path / "store")

    def cut(_: object, __: object) -> Callable[[bytes], None]:
        def write(_: bytes) -> None:
            raise KeyboardInterrupt

        return write

    monkeypatch.setattr(module, "_writer", cut)
    with pytest.raises(KeyboardInterrupt):
        publish(store, snapshot, tmp_path / "here" / "images")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_what_is_none_of_ours_is_passed_over(tmp_path: Path, make_snapshot: Make) -> None:
    snapshot, store = make_snapshot(tmp_path / "here", noisy={"a": "dark"}), folder_store(tmp_path / "store")
    publish(store, snapshot, tmp_path / "here" / "images")
    there = tmp_path / "store" / "project-7"
    (there / "images").mkdir()
    for name in ("images/.part-1.parquet.x", "images/notes.txt", "snapshots/README", "latest.json.bak"):
        (there / name).write_text("x")
    (there / "snapshots" / "not an id").mkdir()
    (there / "snapshots" / "not an id" / "manifest.json").write_text("x")
    assert list(store.snapshots()) == [snapshot.snapshot_id]
    assert store.images() == {}


def test_a_snapshot_that_is_here_is_not_asked_for(tmp_path: Path, make_snapshot: Make) -> None:
    snapshot = make_snapshot(tmp_path / "here", noisy={"a": "dark"})
    assert obtain(folder_store(tmp_path / "empty"), snapshot.snapshot_id, tmp_path / "here", images=False) == snapshot
