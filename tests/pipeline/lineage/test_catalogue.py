"""Snapshots are found by what people call them, wherever they are."""

import shutil
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import DataError
from pipeline.lineage import catalogue_of
from pipeline.snapshot import open_snapshot
from pipeline.snapshot_store import SnapshotStore, publish
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot


def test_all_are_listed_the_newest_first_with_where_they_are(
    workspace: Workspace, store: SnapshotStore, line: list["Snapshot"]
) -> None:
    for snapshot in line[:2]:
        publish(store, open_snapshot(snapshot.path), workspace.folder / "images")
    shutil.rmtree(line[0].path)
    catalogue = catalogue_of(workspace.folder, store)
    ids = [snapshot.snapshot_id for snapshot in line]
    assert list(catalogue.entries) == ids[::-1]
    assert [entry.where for entry in catalogue.entries.values()] == ["local", "local", "both", "store"]
    assert (catalogue.latest, catalogue.stored_latest) == (ids[3], ids[1])
    assert catalogue_of(workspace.folder, None).entries.keys() == set(ids[1:])
    assert catalogue_of(workspace.folder.parent / "project-8", store).latest == ids[1]


def test_names_are_ids_starts_of_ids_the_latest_and_parents(workspace: Workspace, line: list["Snapshot"]) -> None:
    ids = [snapshot.snapshot_id for snapshot in line]
    find = catalogue_of(workspace.folder, None).find
    names = {"latest": 3, "latest~1": 2, "latest~": 2, "latest~~": 1, "latest~3": 0, "latest~0": 3}
    names |= {ids[2]: 2, ids[2][:6]: 2, f"{ids[1][:6]}~1": 0}
    assert {name: find(name).snapshot_id for name in names} == {name: ids[place] for name, place in names.items()}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "names no snapshot"),
        ("abc", "four or more digits"),
        ("../../etc", "names no snapshot"),
        ("latest~4", "is the first and has no parent"),
        ("0000000000000000", "there is no snapshot 0000000000000000"),
    ],
)
@pytest.mark.usefixtures("line")
def test_what_names_no_snapshot_is_one_line(workspace: Workspace, name: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        catalogue_of(workspace.folder, None).find(name)
    assert "\n" not in str(caught.value)


def test_a_start_of_several_names_them_and_a_parent_that_was_removed_is_told(
    workspace: Workspace, line: list["Snapshot"]
) -> None:
    same = line[1].snapshot_id[:4] + "0" * 12
    shutil.copytree(line[1].path, line[1].path.with_name(same))
    manifest = line[1].path.with_name(same) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(line[1].snapshot_id, same))
    with pytest.raises(DataError, match="is the start of several snapshots"):
        catalogue_of(workspace.folder, None).find(same[:4])
    shutil.rmtree(line[0].path)
    with pytest.raises(DataError, match=f"{line[0].snapshot_id}, has been removed"):
        catalogue_of(workspace.folder, None).find("latest~3")


def test_before_the_first_pull_there_is_no_latest(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="nothing has been pulled into"):
        catalogue_of(workspace.folder, None).find("latest")


def test_what_is_damaged_is_named_and_what_has_no_manifest_in_the_store_is_none(
    workspace: Workspace, store: SnapshotStore, line: list["Snapshot"]
) -> None:
    for snapshot in line:
        publish(store, open_snapshot(snapshot.path), workspace.folder / "images")
    (line[0].path / "manifest.json").write_text("{")
    store.remove([f"snapshots/{line[1].snapshot_id}/manifest.json"])
    store.put(f"snapshots/{line[0].snapshot_id}/manifest.json", b"[]")
    catalogue = catalogue_of(workspace.folder, store)
    assert catalogue.damaged == (str(line[0].path), store.snapshot_uri(line[0].snapshot_id))
    assert list(catalogue.unfinished) == [line[1].snapshot_id]
    assert catalogue.entries[line[1].snapshot_id].where == "local"


def test_what_only_the_store_has_is_brought_here_when_it_is_opened(
    workspace: Workspace, store: SnapshotStore, line: list["Snapshot"]
) -> None:
    snapshot = open_snapshot(line[0].path)
    publish(store, snapshot, workspace.folder / "images")
    shutil.rmtree(snapshot.path)
    catalogue = catalogue_of(workspace.folder, store)
    assert catalogue.open(catalogue.entries[snapshot.snapshot_id]) == snapshot
    assert open_snapshot(snapshot.path) == snapshot
