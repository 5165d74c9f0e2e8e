"""What refers to a snapshot keeps it, and nothing else does."""

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import DataError
from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore
from pipeline.lineage import (
    Catalogue,
    Plan,
    catalogue_of,
    collect,
    garbage,
    plan_removal,
    remove_parts,
    unused_parts,
    usage_of,
)
from pipeline.snapshot import open_snapshot
from pipeline.snapshot.folder import SCHEMAS
from pipeline.snapshot_store import SnapshotStore, publish
from pipeline.tracking import SnapshotUse
from pipeline.trail import keep_people
from pipeline.workspace import Completed, Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def use(snapshot: "Snapshot", *aliases: str, under_way: bool = False) -> SnapshotUse:
    return SnapshotUse(snapshot_id=snapshot.snapshot_id, run_id="r", run_name="", under_way=under_way, aliases=aliases)


def planned(
    workspace: Workspace, store: SnapshotStore | None = None, *, uses: Iterable[SnapshotUse] = (), **how: Any
) -> tuple[Catalogue, Plan]:
    catalogue = catalogue_of(workspace.folder, store)
    usual: dict[str, Any] = {"keep": 0, "younger_than": timedelta(0), "now": NOW}
    return catalogue, plan_removal(catalogue, usage_of(catalogue, workspace, uses), **(usual | how))


def gone(plan: Plan) -> list[str]:
    return [removal.entry.snapshot_id for removal in plan.removals]


@pytest.fixture
def read(workspace: Workspace, line: list["Snapshot"]) -> list["Snapshot"]:
    """The four snapshots, all of which the trail has read."""
    keep_people(workspace, NOW)
    return line


def test_all_but_the_latest_go_where_nothing_refers_to_them(workspace: Workspace, read: list["Snapshot"]) -> None:
    catalogue, plan = planned(workspace)
    assert gone(plan) == [snapshot.snapshot_id for snapshot in read[:3]]
    assert plan.kept == {read[3].snapshot_id: ("latest",)}
    collect(catalogue, plan)
    assert [path.name for path in (workspace.folder / "snapshots").iterdir()] == [read[3].snapshot_id]
    assert not (workspace.folder / ".removed").exists()


@pytest.mark.parametrize(
    ("how", "stays"),
    [
        ({"keep": 2}, {2: "one of the newest 2", 3: "latest"}),
        ({"younger_than": timedelta(days=25)}, {2: "younger than 25 days", 3: "latest"}),
        ({"keep": 10}, {0: "one of the newest 10", 1: "one of", 2: "one of", 3: "latest"}),
    ],
)
def test_the_newest_and_the_young_stay(
    workspace: Workspace, read: list["Snapshot"], how: dict[str, Any], stays: dict[int, str]
) -> None:
    _, plan = planned(workspace, **how)
    assert plan.kept.keys() == {read[place].snapshot_id for place in stays}
    assert all(reason in plan.kept[read[place].snapshot_id][0] for place, reason in stays.items())


def test_what_a_run_of_mlflow_refers_to_goes_only_when_told(workspace: Workspace, read: list["Snapshot"]) -> None:
    uses = [use(read[0]), use(read[1], "champion"), use(read[2], under_way=True)]
    _, plan = planned(workspace, uses=uses)
    assert gone(plan) == []
    assert plan.kept[read[0].snapshot_id] == ("1 MLflow run",)
    _, plan = planned(workspace, uses=uses, referenced=True)
    assert gone(plan) == [read[0].snapshot_id]
    assert plan.removals[0].runs == ("r",)
    assert plan.kept[read[1].snapshot_id] == ("champion",)
    assert plan.kept[read[2].snapshot_id] == ("MLflow run r is under way",)


def test_what_this_machine_still_needs_stays_whatever_is_told(workspace: Workspace, line: list["Snapshot"]) -> None:
    workspace.remember(Completed(fingerprint="", snapshot_id=line[0].snapshot_id, config="", run_key="k"))
    (workspace.run_folder(f"{line[1].snapshot_id[:12]}-{'0' * 12}")).mkdir(parents=True)
    (workspace.run_folder(f"{line[2].snapshot_id[:12]}-{'0' * 12}")).mkdir(parents=True)
    (workspace.run_folder(f"{line[2].snapshot_id[:12]}-{'0' * 12}") / "report.json").touch()
    _, plan = planned(workspace, referenced=True)
    assert gone(plan) == []  # the trail has read none of them
    assert "the trail has yet to read it" in plan.kept[line[2].snapshot_id]
    keep_people(workspace, NOW)
    _, plan = planned(workspace, referenced=True)
    assert gone(plan) == [line[2].snapshot_id]
    assert plan.kept[line[0].snapshot_id] == ("the last completed round",)
    assert plan.kept[line[1].snapshot_id] == (f"run {line[1].snapshot_id[:12]}-{'0' * 12} is not finished here",)


def test_while_the_latest_is_damaged_nothing_goes(workspace: Workspace, read: list["Snapshot"]) -> None:
    (read[3].path / "noisy.parquet").write_bytes(b"half")
    assert gone(planned(workspace)[1]) == []


def test_what_goes_goes_from_the_store_too_and_the_published_latest_stays(
    workspace: Workspace, store: SnapshotStore, read: list["Snapshot"]
) -> None:
    for snapshot in (*read[:2], read[3], read[2]):  # another machine published last
        publish(store, open_snapshot(snapshot.path), workspace.folder / "images")
    catalogue, plan = planned(workspace, store)
    assert gone(plan) == [snapshot.snapshot_id for snapshot in read[:2]]
    collect(catalogue, plan)
    assert store.snapshots().keys() == {snapshot.snapshot_id for snapshot in read[2:]}


class Dying:
    """A file system whose user dies before a folder is removed."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        if name == "delete_dir":
            raise KeyboardInterrupt
        return getattr(self._files, name)


def test_whoever_dies_while_removing_leaves_no_half_snapshot(
    workspace: Workspace, store: SnapshotStore, read: list["Snapshot"], monkeypatch: pytest.MonkeyPatch
) -> None:
    for snapshot in (read[0], read[3]):
        publish(store, open_snapshot(snapshot.path), workspace.folder / "images")
    catalogue, plan = planned(workspace, store)
    with monkeypatch.context() as patch:
        patch.setattr(store, "files", Dying(store.files))
        with pytest.raises(KeyboardInterrupt):
            collect(catalogue, plan)
    assert set(store.snapshots()[read[0].snapshot_id]) == {f"{table}.parquet" for table in SCHEMAS}
    assert open_snapshot(read[0].path)
    catalogue, plan = planned(workspace, store)
    assert catalogue.entries[read[0].snapshot_id].where == "local"

    def die(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(garbage, "_clear", die)
        with pytest.raises(KeyboardInterrupt):
            collect(catalogue, plan)
    assert not read[0].path.exists()
    catalogue, plan = planned(workspace, store, now=datetime.now(UTC) + timedelta(days=2))
    collect(catalogue, plan)
    assert not (workspace.folder / ".removed").exists()
    assert [path.name for path in (workspace.folder / "snapshots").iterdir()] == [read[3].snapshot_id]
    assert store.snapshots().keys() == {read[3].snapshot_id}


def test_what_a_publication_left_behind_goes_once_it_is_old(
    workspace: Workspace, store: SnapshotStore, read: list["Snapshot"]
) -> None:
    publish(store, open_snapshot(read[0].path), workspace.folder / "images")
    publish(store, open_snapshot(read[3].path), workspace.folder / "images")
    store.remove([f"snapshots/{read[0].snapshot_id}/manifest.json"])
    now = datetime.now(UTC)
    catalogue, plan = planned(workspace, store, now=now, keep=10)
    assert plan.leftovers == ()
    catalogue, plan = planned(workspace, store, now=now + timedelta(days=2), keep=10)
    assert plan.leftovers == (read[0].snapshot_id,)
    collect(catalogue, plan)
    assert store.snapshots().keys() == {read[3].snapshot_id}
    assert read[0].path.exists()


def add_image(root: Path, *samples: str) -> str:
    """A part with the images of these samples, as `make_snapshot` names them; → its name."""
    with ImageStore(root) as images:
        before = set(images.parts())
        for sample in samples:
            data = f"image of {sample}".encode()
            sha256 = hashlib.sha256(data).hexdigest()
            images.add(f"/{sample}.png", VerifiedImage(data=data, sha256=sha256, width=8, height=8, format="PNG"))
        images.flush()
        [new] = set(images.parts()) - before
    return new.name


@pytest.mark.parametrize("only_stored", [False, True])
def test_image_files_go_when_no_snapshot_that_stays_names_any_of_their_images(
    workspace: Workspace,
    store: SnapshotStore,
    make_snapshot: Callable[..., "Snapshot"],
    only_stored: bool,
) -> None:
    root = workspace.folder
    used, shared, unused = add_image(root, "a"), add_image(root, "b", "x"), add_image(root, "y", "z")
    make_snapshot(root, noisy={"x": "dark", "y": "dark"}, undecided={"z": ("dark", "disputed", ())})
    new = make_snapshot(root, noisy={"a": "dark"}, clean={"b": ("dark", None, "audit")})
    keep_people(workspace, NOW)
    for snapshot in catalogue_of(root, None).entries:
        publish(store, open_snapshot(root / "snapshots" / snapshot), root / "images")
    publish(store, open_snapshot(new.path), root / "images")
    if only_stored:
        for part in (root / "images").glob("part-*.parquet"):
            part.unlink()
    later = datetime.now(UTC) + timedelta(days=3)
    catalogue, plan = planned(workspace, store, now=later)
    how: dict[str, Any] = {"younger_than": timedelta(days=1), "now": later}
    assert unused_parts(catalogue, set(), **how) == ()
    parts = unused_parts(catalogue, set(gone(plan)), **how)
    assert [(part.name, part.local, part.stored) for part in parts] == [(unused, not only_stored, True)]
    assert unused_parts(catalogue, set(gone(plan)), younger_than=timedelta(days=5), now=later) == ()
    collect(catalogue, plan)
    remove_parts(catalogue, parts)
    assert {name for name in store.images() if name.startswith("part-")} == {used, shared}
    with ImageStore(root) as images:
        assert {part.name for part in images.parts()} == (set() if only_stored else {used, shared})


def test_no_image_goes_from_a_store_with_a_snapshot_that_nobody_has_looked_at(
    workspace: Workspace, store: SnapshotStore, make_snapshot: Callable[..., "Snapshot"]
) -> None:
    root = workspace.folder
    add_image(root, "y")
    publish(store, make_snapshot(root, noisy={"a": "dark"}), root / "images")
    catalogue = catalogue_of(root, store)
    parts = unused_parts(catalogue, set(), younger_than=timedelta(0), now=datetime.now(UTC))
    assert len(parts) == 1
    publish(store, make_snapshot(root.parent / "elsewhere", noisy={"y": "dark"}), root / "images")
    with pytest.raises(DataError, match="has a new snapshot since: no image is removed"):
        remove_parts(catalogue, parts)
    assert store.images().keys() >= {part.name for part in parts}


def test_while_a_snapshot_is_damaged_no_image_goes(workspace: Workspace, read: list["Snapshot"]) -> None:
    (read[0].path / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="no image is removed until it is"):
        unused_parts(catalogue_of(workspace.folder, None), set(), younger_than=timedelta(0), now=NOW)
