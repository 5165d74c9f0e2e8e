"""A store that several machines see, for the snapshots and images of a workspace: `s3://…` or a mounted folder.

    <store>/project-7/
        images/part-*.parquet  urls-*.parquet      append-only, sent before the first manifest that needs them
        snapshots/<snapshot_id>/*.parquet          then the tables
        snapshots/<snapshot_id>/manifest.json      then this: without it there is no snapshot
        latest.json                                last of all

Work is done on local files. `publish` sends what a pull found, `obtain` brings it to a machine that lacks it, `share`
has the two lines that a round calls. Nothing that is there is changed, so a publication that died is simply repeated.
"""

from pipeline.snapshot_store.config import StoreConfig
from pipeline.snapshot_store.obtain import obtain
from pipeline.snapshot_store.publish import Published, publish
from pipeline.snapshot_store.share import fetch_shared, share, source_of
from pipeline.snapshot_store.store import SnapshotStore

__all__ = [
    "Published",
    "SnapshotStore",
    "StoreConfig",
    "fetch_shared",
    "obtain",
    "publish",
    "share",
    "source_of",
]
