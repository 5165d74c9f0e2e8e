"""A bucket as any other client sees it, and snapshots to be put there."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from pyarrow.fs import FileSelector, FileType, SubTreeFileSystem

from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore
from pipeline.s3 import S3Config
from pipeline.snapshot import Latest, Snapshot, write_latest
from pipeline.snapshot.writer import SnapshotWriter, exclusive_pull
from pipeline.snapshot_store import SnapshotStore, StoreConfig

SAMPLES = {f"s{number}": "dark" if number % 2 else "bright" for number in range(12)}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "nobody-may-read-this"
"""AWS secret and key id of these tests: neither may show up anywhere."""
KEY_ID = "AKIANOBODYREADSTHIS"
PROJECT = "team/fasten/project-7"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A bucket of its own, as any other client sees it."""

    name: str
    endpoint: str

    @property
    def s3(self) -> S3Config:
        return S3Config(endpoint=self.endpoint, region="us-east-1")

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore.open(StoreConfig(location=f"s3://{self.name}/team/fasten", s3=self.s3), "project-7")

    @property
    def files(self) -> SubTreeFileSystem:
        return SubTreeFileSystem(f"{self.name}/{PROJECT}", self.s3.filesystem())

    def url(self, name: str) -> str:
        return f"{self.endpoint}/{self.name}/{PROJECT}/{name}"

    def objects(self) -> dict[str, bytes]:
        """Name below the project → content."""
        found = self.files.get_file_info(FileSelector("", recursive=True, allow_not_found=True))
        names = [info.path for info in found if info.type == FileType.File]
        return {name: httpx.get(self.url(name)).raise_for_status().content for name in names}

    def put(self, name: str, content: bytes) -> None:
        with self.files.open_output_stream(name) as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        self.files.delete_file(name)


def fill(root: Path, samples: dict[str, str]) -> Snapshot:
    """A snapshot of these samples below `root`, and their images in two parts."""
    hashes = {name: hashlib.sha256(f"image of {name}".encode()).hexdigest() for name in samples}
    for half in (list(samples)[::2], list(samples)[1::2]):
        with ImageStore(root) as images:
            for name in half:
                data = f"image of {name}".encode()
                images.add(
                    f"/{name}.png", VerifiedImage(data=data, sha256=hashes[name], width=8, height=8, format="PNG")
                )
    with exclusive_pull(root) as folder, SnapshotWriter(folder / "snapshot", ("bright", "dark")) as writer:
        for number, (name, label) in enumerate(sorted(samples.items())):
            answer = {"sample_id": name, "project_id": 7, "task_id": number, "annotation_id": number, "label": label}
            answer |= {"annotator": "user:1", "answer": "class", "ground_truth": False, "was_cancelled": False}
            answer |= {"lead_time_s": 2.5, "created_at": NOON, "updated_at": NOON, "origin": "labels"}
            writer.add("labels", answer | {"asked_as": None, "suggestion": None, "asked_by_run": None})
            votes = [{"annotator": "user:1", "label": label}]
            sample = {"sample_id": name, "image_sha256": hashes[name], "image_url": f"/{name}.png", "label": label}
            writer.add("noisy", sample | {"votes": votes})
        snapshot, _ = writer.finish(root, rejected={}, projects=[], states=[])
    write_latest(root, Latest(snapshot_id=snapshot.snapshot_id))
    return snapshot


def files_of(snapshot: Snapshot) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in snapshot.path.iterdir()}


def images_of(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (root / "images").glob("*.parquet")}


def expected(root: Path, snapshot: Snapshot) -> dict[str, bytes]:
    """What a store with this snapshot alone holds."""
    tables = {f"snapshots/{snapshot.snapshot_id}/{name}": content for name, content in files_of(snapshot).items()}
    latest = {"latest.json": (root / "latest.json").read_bytes()}
    return tables | latest | {f"images/{name}": content for name, content in images_of(root).items()}
