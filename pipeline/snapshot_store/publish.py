"""Publish: what a pull found becomes visible to other machines, all of it at once.

Images first, then the tables, then the manifest, then `latest.json`. Whoever dies on the way has published nothing yet;
whoever publishes again sends what is missing, and what is not what it should be.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError, ServiceUnavailable
from pipeline.snapshot import Snapshot
from pipeline.snapshot.folder import SCHEMAS
from pipeline.snapshot_store.store import SnapshotStore, StoredFile, at_once

logger = logging.getLogger(__name__)

TABLES = tuple(f"{name}.parquet" for name in SCHEMAS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What it took."""

    uri: str
    """Where the snapshot is now."""
    objects: int
    """How many were sent; none where all was there."""
    size: int
    """Their bytes."""


def publish(store: SnapshotStore, snapshot: Snapshot, image_folder: Path) -> Published:
    """Send a verified snapshot, and every file of `image_folder`, as far as the store does not have them.

    Images are known by their name and size, tables by their hash, which is read back after they are sent.
    """
    sizes = _send_images(store, image_folder) + _send_tables(store, snapshot)
    store.point_latest(snapshot.snapshot_id)
    published = Published(uri=store.snapshot_uri(snapshot.snapshot_id), objects=len(sizes), size=sum(sizes))
    logger.info(
        "snapshot %s is in %s: %d objects sent, %.1f MB", snapshot.snapshot_id, store.uri, len(sizes), sum(sizes) / 1e6
    )
    return published


def _send_images(store: SnapshotStore, folder: Path) -> list[int]:
    there = store.images()
    files = sorted([*folder.glob("part-*.parquet"), *folder.glob("urls-*.parquet")])

    def send(file: Path) -> int:
        with suppress(FileNotFoundError):  # `fasten gc` has removed it since: no snapshot that stays names its images
            return store.send(file, f"images/{file.name}")
        return 0

    return at_once(send, [file for file in files if not _is_there(file, there.get(file.name))])


def _is_there(file: Path, stored: StoredFile | None) -> bool:
    return stored is not None and stored.size == file.stat().st_size


def _send_tables(store: SnapshotStore, snapshot: Snapshot) -> list[int]:
    """The tables, then the manifest; → the sizes of what was sent."""
    folder = f"snapshots/{snapshot.snapshot_id}"
    manifest = (snapshot.path / "manifest.json").read_bytes()
    visible = store.manifest_text(snapshot.snapshot_id)
    if visible is not None and visible != manifest:
        # The same labels, written by another machine or at another time: the same snapshot where it is whole.
        if _is_whole(store, snapshot.snapshot_id):
            return []
        store.remove([f"{folder}/manifest.json"])
        visible = None

    def send(name: str) -> int | None:
        target, expected = f"{folder}/{name}", snapshot.manifest.files[name]
        size = (snapshot.path / name).stat().st_size
        if store.size(target) == size and store.sha256(target) == expected:
            return None
        store.send(snapshot.path / name, target)
        if store.sha256(target) != expected:
            raise ServiceUnavailable(f"{store.uri}/{target} is not what was sent; run it again")
        return size

    sizes = [size for size in at_once(send, TABLES) if size is not None]
    if visible is None:
        store.put(f"{folder}/manifest.json", manifest)
        sizes.append(len(manifest))
    return sizes


def _is_whole(store: SnapshotStore, snapshot_id: str) -> bool:
    try:
        manifest = store.manifest(snapshot_id)
        return manifest is not None and all(
            store.sha256(f"snapshots/{snapshot_id}/{name}") == manifest.files.get(name) for name in TABLES
        )
    except DataError:
        return False
