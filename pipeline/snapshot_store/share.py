"""The two lines of a round: publish what was pulled; on a new machine, begin where the others are."""

import logging
from typing import TYPE_CHECKING

from pipeline.schema import SCHEMA_VERSION
from pipeline.snapshot import Latest, Snapshot, read_latest, write_latest
from pipeline.snapshot_store.obtain import obtain
from pipeline.snapshot_store.publish import publish
from pipeline.snapshot_store.store import SnapshotStore

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


def store_of(settings: "Settings", workspace: "Workspace") -> SnapshotStore | None:
    """The workspace's part of the store that is set; None where none is."""
    config = settings.shared_store
    return None if config is None else SnapshotStore.open(config, workspace.folder.name)


def share(settings: "Settings", workspace: "Workspace", snapshot: Snapshot) -> None:
    """Publish the snapshot and the workspace's images; nothing where no store is set, little where all is there."""
    if (store := store_of(settings, workspace)) is not None:
        publish(store, snapshot, workspace.folder / "images")


def fetch_shared(settings: "Settings", workspace: "Workspace") -> Snapshot | None:
    """Where nothing has been pulled here yet, the latest snapshot of the store, with all images; else None.

    Call it before the workspace's images are opened.
    """
    if read_latest(workspace.folder) is not None or (store := store_of(settings, workspace)) is None:
        return None
    latest = store.latest()
    manifest = None if latest is None else store.manifest(latest)
    if latest is None or manifest is None:
        return None
    if manifest.schema_version != SCHEMA_VERSION:
        logger.warning(
            "snapshot %s of %s has schema version %d, this release reads %d: everything is pulled anew",
            latest, store.uri, manifest.schema_version, SCHEMA_VERSION,
        )  # fmt: skip
        return None
    logger.info("nothing has been pulled here: beginning with snapshot %s of %s", latest, store.uri)
    snapshot = obtain(store, latest, workspace.folder)
    write_latest(workspace.folder, Latest(snapshot_id=snapshot.snapshot_id))
    return snapshot


def source_of(settings: "Settings", workspace: "Workspace", snapshot: Snapshot) -> str:
    """Where others find the snapshot: in the store where one is set, else in its folder."""
    config = settings.shared_store
    if config is None:
        return str(snapshot.path)
    return f"{config.uri_of(workspace.folder.name)}/snapshots/{snapshot.snapshot_id}"
