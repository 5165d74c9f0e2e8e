"""Snapshots: what one pull found, written whole or not at all, never changed afterwards.

    data_dir/
        latest.json                 which snapshot the newest pull gave
        snapshots/<snapshot_id>/    labels.parquet  noisy.parquet  clean.parquet  undecided.parquet  manifest.json
        images/                     shared by all snapshots (`pipeline.images.store`)

The id is a hash of the content (schema version, classes, every value in the order written), not of Parquet's bytes:
the same labels give the same id under every version of pyarrow, and a pull that finds nothing new writes nothing.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import DataError
from pipeline.records import ProjectState
from pipeline.schema import CLEAN, LABELS, NOISY, SCHEMA_VERSION, UNDECIDED, check_columns

logger = logging.getLogger(__name__)

SCHEMAS: Mapping[str, pa.Schema] = {"labels": LABELS, "noisy": NOISY, "clean": CLEAN, "undecided": UNDECIDED}
"""The tables of a snapshot, each in `{name}.parquet`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectSource:
    """One Label Studio project that a snapshot was pulled from."""

    role: str
    """`labels`, `audit` or `review`."""
    project_id: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """`manifest.json`: everything about a snapshot but its rows."""

    snapshot_id: str
    schema_version: int
    parent: str | None
    """Id of the snapshot that was the latest when this one was pulled."""
    created_at: datetime
    classes: tuple[str, ...]
    """In the order of the labels project's config; class index = position."""
    rows: dict[str, int]
    """Rows of each table."""
    files: dict[str, str]
    """File name → SHA-256 of its bytes."""
    noisy_per_class: dict[str, int]
    """Noisy samples by consensus label, every class named."""
    audit_per_class: dict[str, int]
    """Clean samples of provenance `audit` by label, every class named."""
    review_per_class: dict[str, int]
    """Clean samples of provenance `review` by label, every class named."""
    rejected: dict[str, int] = field(default_factory=dict)
    """What the pull left out, by reason."""
    projects: tuple[ProjectSource, ...] = ()
    states: tuple[ProjectState, ...] = ()
    """The projects' states just before the pull."""
    cursors: dict[str, str] = field(default_factory=dict)
    """Project id → the `updated_at` up to which every change of that project is in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A verified snapshot folder."""

    path: Path
    manifest: Manifest

    @property
    def snapshot_id(self) -> str:
        return self.manifest.snapshot_id

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def labels_path(self) -> Path:
        return self.path / "labels.parquet"

    @property
    def noisy_path(self) -> Path:
        return self.path / "noisy.parquet"

    @property
    def clean_path(self) -> Path:
        return self.path / "clean.parquet"

    @property
    def undecided_path(self) -> Path:
        return self.path / "undecided.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Latest:
    """`latest.json`: which snapshot the newest pull gave."""

    snapshot_id: str


_MANIFEST = TypeAdapter(Manifest)
_LATEST = TypeAdapter(Latest)


def snapshot_folder(data_dir: Path, snapshot_id: str) -> Path:
    """Where the snapshot of that id lies, whether it exists or not."""
    return data_dir / "snapshots" / snapshot_id


def open_snapshot(path: Path) -> Snapshot:
    """The snapshot in folder `path`, with every file's hash, columns and row count checked.

    Raises `DataError` where the folder is missing, incomplete, changed since it was written, or of another schema.
    """
    manifest = read_manifest(path)
    if manifest.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"snapshot {path} has schema version {manifest.schema_version}, this release reads {SCHEMA_VERSION}; "
            "pull again"
        )
    for name, schema in SCHEMAS.items():
        file = path / f"{name}.parquet"
        expected = manifest.files.get(file.name)
        if not file.is_file():
            raise DataError(f"snapshot {path} lacks {file.name}; pull again")
        if hash_file(file) != expected:
            raise DataError(f"snapshot {path}: {file.name} is not the file its manifest describes; pull again")
        check_columns(file, schema)
        if (rows := pq.read_metadata(file).num_rows) != manifest.rows.get(name):
            raise DataError(f"snapshot {path}: {file.name} has {rows} rows, its manifest says otherwise; pull again")
    return Snapshot(path=path, manifest=manifest)


def latest_snapshot(data_dir: Path) -> Snapshot | None:
    """The snapshot of the newest pull into `data_dir`; None before the first one. Raises as `open_snapshot`."""
    latest = read_latest(data_dir)
    return None if latest is None else open_snapshot(snapshot_folder(data_dir, latest.snapshot_id))


def read_latest(data_dir: Path) -> Latest | None:
    """`latest.json` of `data_dir`; None before the first pull. Raises `DataError` where it cannot be read."""
    file = data_dir / "latest.json"
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error
    return parse_latest(text, str(file))


def write_latest(data_dir: Path, latest: Latest) -> None:
    """Point `data_dir` at the outcome of the newest pull, in one step; writes nothing where it says so already."""
    file = data_dir / "latest.json"
    text = latest_json(latest)
    if not file.exists() or file.read_bytes() != text:
        staged = file.with_name(".latest.json.staged")
        staged.write_bytes(text)
        staged.replace(file)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(staged: Path, manifest: Manifest, data_dir: Path) -> tuple[Snapshot, bool]:
    """Give the finished folder `staged` its final name; → (snapshot, whether it was not there before).

    A snapshot of the same id that opens is left untouched and `staged` is removed; one that does not open is replaced.
    """
    (staged / "manifest.json").write_bytes(_MANIFEST.dump_json(manifest, indent=2))
    return adopt(staged, manifest, data_dir)


def adopt(staged: Path, manifest: Manifest, data_dir: Path) -> tuple[Snapshot, bool]:
    """`place`, of a folder that has its manifest already."""
    final = snapshot_folder(data_dir, manifest.snapshot_id)
    if final.exists():
        try:
            existing = open_snapshot(final)
        except DataError as error:
            logger.warning("replacing a damaged snapshot: %s", error)
            broken = staged.with_name(staged.name + ".broken")
            final.replace(broken)
            shutil.rmtree(broken)
        else:
            shutil.rmtree(staged)
            return existing, False
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(final)
    return Snapshot(path=final, manifest=manifest), True


def read_manifest(path: Path) -> Manifest:
    """The manifest in folder `path`, of whatever schema version; the tables are not looked at. Raises `DataError`."""
    file = path / "manifest.json"
    try:
        text = file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is not a snapshot: it has no manifest.json") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error
    return parse_manifest(text, str(file))


def parse_manifest(text: bytes, file: str) -> Manifest:
    """The manifest that `text` is; `file` is where it was found, for the error. Raises `DataError`."""
    try:
        manifest = _MANIFEST.validate_json(text)
    except ValidationError as error:
        raise DataError(f"{file} is damaged ({_first_problem(error)}); pull again") from error
    _check_id(manifest.snapshot_id, file)
    return manifest


def parse_latest(text: bytes, file: str) -> Latest:
    """The pointer that `text` is; `file` is where it was found, for the error. Raises `DataError`."""
    try:
        latest = _LATEST.validate_json(text)
    except ValidationError as error:
        raise DataError(f"{file} is damaged ({_first_problem(error)}); remove it and pull again") from error
    _check_id(latest.snapshot_id, file)
    return latest


def latest_json(latest: Latest) -> bytes:
    """What `latest.json` holds."""
    return _LATEST.dump_json(latest, indent=2)


def is_snapshot_id(name: str) -> bool:
    """Whether a folder of that name may be a snapshot: nothing but the hexadecimal digits that we write."""
    return bool(name) and not set(name) - set("0123456789abcdef")


def _check_id(snapshot_id: str, file: str) -> None:
    # The id becomes a folder name.
    if not is_snapshot_id(snapshot_id):
        raise DataError(f"{file} names a snapshot {snapshot_id[:40]!r}, which is no snapshot id; pull again")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "top level"
    return f"{where}: {problem['msg']}"
