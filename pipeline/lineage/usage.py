"""What refers to each snapshot: `latest.json`, runs of MLflow and of this machine, the trail."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline import trail
from pipeline.errors import DataError
from pipeline.lineage.catalogue import Catalogue
from pipeline.tracking import SnapshotUse
from pipeline.workspace import Workspace

_IN_RUN_KEY = 12
"""Digits of the snapshot's id that a run key begins with (`workspace.run_key`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What refers to one snapshot."""

    latest: bool = False
    """It is what the newest pull gave, here or in the store."""
    completed: bool = False
    """The last completed round worked on it: `fasten report`, `people` and `push` read it."""
    unread: bool = False
    """The trail has yet to read what people said in it."""
    tracked: tuple[SnapshotUse, ...] = ()
    """Runs of MLflow."""
    local_runs: tuple[str, ...] = ()
    """Keys of this machine's runs."""
    local_under_way: tuple[str, ...] = ()
    """Those of them that have not come to their end."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """`champion` and the like."""
        return tuple(sorted({alias for use in self.tracked for alias in use.aliases}))

    @property
    def needed(self) -> tuple[str, ...]:
        """Why it must stay, whatever anybody says."""
        return (
            *(("latest",) if self.latest else ()),
            *self.aliases,
            *(("the last completed round",) if self.completed else ()),
            *(("the trail has yet to read it",) if self.unread else ()),
            *(f"run {key} is not finished here" for key in self.local_under_way),
            *(f"MLflow run {use.run_id} is under way" for use in self.tracked if use.under_way),
        )


def usage_of(catalogue: Catalogue, workspace: Workspace, uses: Iterable[SnapshotUse] = ()) -> Mapping[str, Usage]:
    """Snapshot id → what refers to it; `uses` are what MLflow knows (`Tracking.snapshot_uses`)."""
    completed = workspace.completed()
    latest = {catalogue.latest, catalogue.stored_latest}
    unread = _unread(catalogue, workspace)
    tracked: dict[str, list[SnapshotUse]] = {}
    for use in uses:
        tracked.setdefault(use.snapshot_id, []).append(use)
    runs = {path.name: (path / "report.json").exists() for path in sorted((workspace.folder / "runs").glob("[!.]*"))}
    return {
        one: Usage(
            latest=one in latest,
            completed=completed is not None and completed.snapshot_id == one,
            unread=one in unread,
            tracked=tuple(tracked.get(one, ())),
            local_runs=tuple(key for key in runs if key.startswith(f"{one[:_IN_RUN_KEY]}-")),
            local_under_way=tuple(
                key for key, over in runs.items() if key.startswith(f"{one[:_IN_RUN_KEY]}-") and not over
            ),
        )
        for one in catalogue.entries
    }


def _unread(catalogue: Catalogue, workspace: Workspace) -> set[str]:
    try:
        return set(trail.unread_snapshots(workspace))
    except DataError:  # the latest is damaged: until it is mended nobody knows, so all of them
        return set(catalogue.entries)
