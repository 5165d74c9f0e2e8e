"""A workspace and a store in a folder, and snapshots of a given age in either."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.snapshot_store import SnapshotStore, StoreConfig
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def workspace(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Of project 7, as the settings say."""
    monkeypatch.setenv("FASTEN_DATA_DIR", str(own_folder / "data"))
    monkeypatch.setenv("FASTEN_LABELS_PROJECT", "7")
    return Workspace(folder=own_folder / "data" / "project-7")


@pytest.fixture
def store(own_folder: Path) -> SnapshotStore:
    """An empty one."""
    (own_folder / "store").mkdir()
    return SnapshotStore.open(StoreConfig(location=str(own_folder / "store")), "project-7")


@pytest.fixture
def line(workspace: Workspace, make_snapshot: Callable[..., "Snapshot"]) -> list["Snapshot"]:
    """Four snapshots of the workspace, each the parent of the next, pulled 40, 30, 20 and 10 days ago."""
    made = []
    for number, days in enumerate((40, 30, 20, 10)):
        samples = {f"s{place}": "dark" for place in range(number + 1)}
        labels = [{"sample_id": name, "annotation_id": place} for place, name in enumerate(samples)]
        snapshot = make_snapshot(workspace.folder, labels=labels, noisy=samples)
        edit(snapshot, created_at=(NOW - timedelta(days=days)).isoformat())
        made.append(snapshot)
    return made


def edit(snapshot: "Snapshot", **values: Any) -> None:
    """Change what a manifest says."""
    file = snapshot.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
