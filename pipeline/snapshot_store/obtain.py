"""Obtain: what another machine has pulled is brought here, each byte of it checked before it gets its name."""

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.images.store import ImageStore
from pipeline.schema import IMAGE_URLS, IMAGES, check_columns
from pipeline.snapshot import Snapshot, open_snapshot
from pipeline.snapshot.folder import adopt, parse_manifest, snapshot_folder
from pipeline.snapshot_store.publish import TABLES
from pipeline.snapshot_store.store import SnapshotStore, at_once

logger = logging.getLogger(__name__)


def obtain(store: SnapshotStore, snapshot_id: str, data_dir: Path, *, images: bool = True) -> Snapshot:
    """The snapshot of that id below `data_dir`, brought there from the store where it is missing or damaged.

    With `images` every image file that `data_dir` lacks comes too. Whoever is cut off leaves nothing half: run it
    again. Raises `DataError` where the store does not have the snapshot, or it is not what its manifest describes.
    """
    with _alone(data_dir) as staging:
        snapshot = _here(data_dir, snapshot_id) or _fetch_tables(store, snapshot_id, data_dir, staging)
        if images:
            _fetch_images(store, snapshot, data_dir, staging)
    return snapshot


@contextmanager
def _alone(data_dir: Path) -> Iterator[Path]:
    """An empty folder to stage in; what lies there was left by a process that is no more."""
    data_dir.mkdir(parents=True, exist_ok=True)
    staging = data_dir / ".obtaining"
    with (data_dir / ".obtain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _here(data_dir: Path, snapshot_id: str) -> Snapshot | None:
    try:
        return open_snapshot(snapshot_folder(data_dir, snapshot_id))
    except DataError:
        return None


def _fetch_tables(store: SnapshotStore, snapshot_id: str, data_dir: Path, staging: Path) -> Snapshot:
    uri = store.snapshot_uri(snapshot_id)
    text = store.manifest_text(snapshot_id)
    if text is None:
        raise DataError(f"{uri} is no snapshot: it was never published whole, or has been removed")
    manifest = parse_manifest(text, f"{uri}/manifest.json")
    if manifest.snapshot_id != snapshot_id:
        raise _tampered(f"{uri}/manifest.json", f"is that of snapshot {manifest.snapshot_id}")
    staged = staging / snapshot_id
    staged.mkdir()

    def fetch(name: str) -> None:
        if store.receive(f"snapshots/{snapshot_id}/{name}", staged / name) != manifest.files.get(name):
            raise _tampered(f"{uri}/{name}", "is not the file that its manifest describes")

    at_once(fetch, TABLES)
    (staged / "manifest.json").write_bytes(text)
    open_snapshot(staged)  # schema version, columns, rows
    snapshot, _ = adopt(staged, manifest, data_dir)
    logger.info("snapshot %s obtained from %s", snapshot_id, store.uri)
    return snapshot


def _fetch_images(store: SnapshotStore, snapshot: Snapshot, data_dir: Path, staging: Path) -> None:
    folder = data_dir / "images"
    folder.mkdir(exist_ok=True)
    missing = [file for name, file in store.images().items() if not (folder / name).exists()]

    def fetch(name: str) -> None:
        base = name.rpartition("/")[2]
        store.receive(name, staging / base)
        (_check_images if base.startswith("part-") else _check_addresses)(staging / base, f"{store.uri}/{name}")
        (staging / base).replace(folder / base)

    # The parts first: which URL gave an image is of use only where the image is.
    for kind in ("part-", "urls-"):
        at_once(fetch, [file.name for file in missing if file.name.startswith(f"images/{kind}")])
    if missing:
        size = sum(file.size for file in missing)
        logger.info("%d image files, %.1f MB, obtained from %s", len(missing), size / 1e6, store.uri)
    with ImageStore(data_dir) as images:  # enters them into its index
        try:
            next(images.iter_images(_hashes(snapshot)), None)
        except DataError as error:
            raise DataError(
                f"{store.uri} lacks images of snapshot {snapshot.snapshot_id} ({error}): `fasten pull` where they are "
                "sends them"
            ) from None


def _hashes(snapshot: Snapshot) -> Iterator[str]:
    for path in (snapshot.noisy_path, snapshot.clean_path, snapshot.undecided_path):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=10_000, columns=["image_sha256"]):
                yield from (sha for sha in batch.column(0).to_pylist() if sha is not None)


def _check_images(part: Path, where: str) -> None:
    """Raise `DataError` unless each image of the part is the one whose hash it bears; holds one row group."""
    try:
        check_columns(part, IMAGES)
        wrong = next((sha for sha, data in _images_in(part) if hashlib.sha256(data).hexdigest() != sha), None)
    except (DataError, OSError, pa.ArrowException, TypeError):
        raise _tampered(where, "is not a file of images") from None
    if wrong is not None:
        raise _tampered(where, f"holds another image than {wrong[:64]}")


def _check_addresses(file: Path, where: str) -> None:
    try:
        check_columns(file, IMAGE_URLS)
        pq.read_table(file)
    except (DataError, OSError, pa.ArrowException):
        raise _tampered(where, "is not a file of addresses") from None


def _images_in(part: Path) -> Iterator[tuple[str, pa.Buffer]]:
    with pq.ParquetFile(part) as file:
        for row_group in range(file.num_row_groups):
            table = file.read_row_group(row_group, columns=["image_sha256", "image"])
            for sha, image in zip(table["image_sha256"], table["image"], strict=True):
                yield sha.as_py(), image["bytes"].as_buffer()


def _tampered(where: str, how: str) -> DataError:
    return DataError(
        f"{where} {how}: it was changed, or damaged; remove it from the store, and `fasten pull` where it was pulled "
        "sends it again"
    )
