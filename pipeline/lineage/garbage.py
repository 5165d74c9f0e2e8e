"""Garbage collection of snapshots: what nothing refers to goes, here and in the store.

Hold `snapshot.writer.pull_lock` from the catalogue to the end: whatever is decided must still hold when it is done.
In the store the manifest goes first, and here the whole folder is renamed away: nobody meets half a snapshot.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.lineage.catalogue import Catalogue, Entry
from pipeline.lineage.usage import Usage
from pipeline.snapshot.folder import snapshot_folder
from pipeline.snapshot_store.store import StoredFile

logger = logging.getLogger(__name__)

_UNDER_WAY = timedelta(days=1)
"""What lies in the store without a manifest may be a publication under way until its newest object is this old."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """A snapshot that may go."""

    entry: Entry
    runs: tuple[str, ...]
    """MLflow runs that refer to it; none unless they were told not to count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What may go, and why the rest stays."""

    removals: tuple[Removal, ...]
    """The oldest first."""
    kept: Mapping[str, tuple[str, ...]]
    """Snapshot id → every reason to keep it."""
    leftovers: tuple[str, ...]
    """Ids of snapshots of which the store has files and no manifest, and has had for long."""


def plan_removal(
    catalogue: Catalogue,
    usage: Mapping[str, Usage],
    *,
    keep: int,
    younger_than: timedelta,
    now: datetime,
    referenced: bool = False,
) -> Plan:
    """Decide what goes.

    Args:
        keep: so many of the newest stay.
        younger_than: what was pulled more recently than that stays.
        referenced: also what runs of MLflow refer to, unless their model has an alias or they are under way.
    """
    removals: list[Removal] = []
    kept: dict[str, tuple[str, ...]] = {}
    for place, entry in enumerate(catalogue.entries.values()):
        used = usage[entry.snapshot_id]
        runs = tuple(use.run_id for use in used.tracked)
        reasons = list(used.needed)
        if runs and not referenced:
            reasons.append(f"{len(runs)} MLflow run{'s' if len(runs) > 1 else ''}")
        if place < keep:
            reasons.append(f"one of the newest {keep}")
        if now - entry.manifest.created_at < younger_than:
            reasons.append(f"younger than {younger_than / timedelta(days=1):g} days")
        if reasons:
            kept[entry.snapshot_id] = tuple(reasons)
        else:
            removals.append(Removal(entry=entry, runs=runs))
    return Plan(
        removals=tuple(reversed(removals)),
        kept=kept,
        leftovers=tuple(one for one, files in catalogue.unfinished.items() if _is_left_over(files, now)),
    )


def _is_left_over(files: Mapping[str, StoredFile], now: datetime) -> bool:
    changed = [file.changed for file in files.values() if file.changed is not None]
    return bool(changed) and now - max(changed) > _UNDER_WAY


def collect(catalogue: Catalogue, plan: Plan) -> None:
    """Remove what `plan` says. Whoever dies on the way leaves whole snapshots and invisible rests; run it again."""
    removed = catalogue.folder / ".removed"
    if removed.exists():  # somebody died
        _clear(removed)
    for removal in plan.removals:
        entry = removal.entry
        if entry.stored and catalogue.store is not None:
            catalogue.store.remove_snapshot(entry.snapshot_id)
        if entry.local:
            _remove_folder(snapshot_folder(catalogue.folder, entry.snapshot_id), removed)
        logger.info("snapshot %s removed (%s)", entry.snapshot_id, entry.where)
    for snapshot_id in plan.leftovers:
        if catalogue.store is not None:
            catalogue.store.remove_snapshot(snapshot_id)


def _remove_folder(folder: Path, removed: Path) -> None:
    removed.mkdir(exist_ok=True)
    folder.replace(removed / folder.name)
    _clear(removed)


def _clear(removed: Path) -> None:
    shutil.rmtree(removed)
