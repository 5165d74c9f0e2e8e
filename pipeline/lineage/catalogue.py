"""Which snapshots there are, in the workspace and in the store, and how people name one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError
from pipeline.snapshot import Manifest, Snapshot, open_snapshot, read_latest
from pipeline.snapshot.folder import is_snapshot_id, read_manifest, snapshot_folder
from pipeline.snapshot_store import SnapshotStore, obtain
from pipeline.snapshot_store.store import StoredFile, at_once

_NAME = re.compile(r"(latest|[0-9a-f]{4,64})((?:~[0-9]{0,4})*)")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One snapshot."""

    manifest: Manifest
    local: bool
    """Whether the workspace has it."""
    stored: bool
    """Whether the store has it."""

    @property
    def snapshot_id(self) -> str:
        return self.manifest.snapshot_id

    @property
    def where(self) -> str:
        return "both" if self.local and self.stored else "local" if self.local else "store"


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All snapshots of one labels project."""

    folder: Path
    """The workspace."""
    store: SnapshotStore | None
    entries: Mapping[str, Entry]
    """By id, the newest first."""
    latest: str | None
    """Id of the snapshot that the newest pull here gave; the store's where nothing has been pulled here."""
    stored_latest: str | None
    """Id of the snapshot that was published last."""
    damaged: tuple[str, ...]
    """Folders, here and in the store, whose manifest cannot be read."""
    unfinished: Mapping[str, Mapping[str, StoredFile]]
    """What lies in the store without a manifest: publications under way or cut off, by id."""

    def find(self, name: str) -> Entry:
        """The snapshot that is called `name`: an id or its start, `latest`, either with `~1` for its parent, `~2` …

        Raises `DataError` where there is none, or several.
        """
        parsed = _NAME.fullmatch(name)
        if parsed is None:
            raise DataError(
                f"{name[:80]!r} names no snapshot: give an id, four or more digits of its start, latest or latest~1"
            )
        entry = self._first(parsed[1])
        for step in parsed[2].split("~")[1:]:
            for _ in range(int(step) if step else 1):
                entry = self.parent_of(entry)
        return entry

    def parent_of(self, entry: Entry) -> Entry:
        """The snapshot that was the latest when this one was pulled. Raises `DataError` where there is none."""
        parent = entry.manifest.parent
        if parent is None:
            raise DataError(f"snapshot {entry.snapshot_id} is the first and has no parent")
        if parent not in self.entries:
            raise DataError(f"the parent of snapshot {entry.snapshot_id}, {parent}, has been removed")
        return self.entries[parent]

    def open(self, entry: Entry) -> Snapshot:
        """The snapshot, verified; its tables are brought here where only the store has them."""
        if not entry.local and self.store is not None:
            return obtain(self.store, entry.snapshot_id, self.folder, images=False)
        return open_snapshot(snapshot_folder(self.folder, entry.snapshot_id))

    def _first(self, name: str) -> Entry:
        if name == "latest":
            if self.latest is None:
                raise DataError(f"nothing has been pulled into {self.folder} yet: run `fasten retrain`")
            name = self.latest
        found = [entry for snapshot_id, entry in self.entries.items() if snapshot_id.startswith(name)]
        if len(found) == 1:
            return found[0]
        ids = ", ".join([entry.snapshot_id for entry in found or self.entries.values()][:_SHOWN])
        if found:
            raise DataError(f"{name} is the start of several snapshots ({ids}): give more of the id")
        raise DataError(f"there is no snapshot {name} (the newest: {ids or 'none'}); `fasten snapshots` lists them")


def catalogue_of(folder: Path, store: SnapshotStore | None) -> Catalogue:
    """Everything that lies in the workspace `folder` and in `store`; only manifests are read."""
    damaged: list[str] = []
    local = _local(folder, damaged)
    stored, unfinished = _stored(store, local, damaged) if store is not None else ({}, {})
    manifests = stored | local
    newest_first = sorted(manifests.values(), key=lambda one: (one.created_at, one.snapshot_id), reverse=True)
    latest, stored_latest = read_latest(folder), store.latest() if store is not None else None
    return Catalogue(
        folder=folder,
        store=store,
        entries={
            one.snapshot_id: Entry(manifest=one, local=one.snapshot_id in local, stored=one.snapshot_id in stored)
            for one in newest_first
        },
        latest=stored_latest if latest is None else latest.snapshot_id,
        stored_latest=stored_latest,
        damaged=tuple(damaged),
        unfinished=unfinished,
    )


def _local(folder: Path, damaged: list[str]) -> dict[str, Manifest]:
    found = {}
    for path in sorted((folder / "snapshots").glob("*")):
        if is_snapshot_id(path.name):
            try:
                manifest = read_manifest(path)
            except DataError:
                manifest = None
            if manifest is None or manifest.snapshot_id != path.name:
                damaged.append(str(path))
            else:
                found[path.name] = manifest
    return found


def _stored(
    store: SnapshotStore, local: Mapping[str, Manifest], damaged: list[str]
) -> tuple[dict[str, Manifest], dict[str, dict[str, StoredFile]]]:
    there = store.snapshots()
    unfinished = {one: files for one, files in there.items() if "manifest.json" not in files}
    found = {one: local[one] for one in there if one not in unfinished and one in local}

    def read(snapshot_id: str) -> Manifest | None:
        try:
            return store.manifest(snapshot_id)
        except DataError:
            damaged.append(store.snapshot_uri(snapshot_id))
            return None

    others = [one for one in there if one not in unfinished and one not in local]
    for manifest in at_once(read, others):
        if manifest is not None:
            found[manifest.snapshot_id] = manifest
    return found, unfinished
