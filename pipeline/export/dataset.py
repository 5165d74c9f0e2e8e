"""The corrected labels as a folder of Parquet shards that Hugging Face's `datasets` opens.

    DIR/data/part-00000.parquet …    image, label, soft label, source, and who decided (`columns`)
    DIR/history.parquet              how each label that is not the given one came about (`changes`)
    DIR/README.md                    what it is and how it is loaded
    DIR/manifest.json                what it was made from, and the hashes of its files

    datasets.load_dataset("DIR")     or   datasets.load_dataset("parquet", data_files="DIR/data/*.parquet")

The folder is written beside its place and moved there when it is whole. The same labels of the same workspace give the
same bytes.
"""

import fcntl
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from pipeline.corrected import corrected_rows, deciding_run
from pipeline.errors import DataError
from pipeline.export.by_image import LabelsOnDisk
from pipeline.export.changes import HISTORY, history_rows
from pipeline.export.columns import dataset_schema, file_name
from pipeline.images import ImageStore
from pipeline.records import Mode
from pipeline.snapshot import Snapshot
from pipeline.snapshot.folder import hash_file
from pipeline.trail.files import folder, write_rows
from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

FORMAT = "fasten corrected labels 1"
SHARD_BYTES = 256 * 2**20
SHARD_ROWS = 50_000
GROUP_BYTES = 16 * 2**20
GROUP_ROWS = 1_000
"""Bounds on the images' bytes and on the rows of a shard, and of a row group: what memory holds at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """`manifest.json`."""

    format: str
    export_id: str
    """Of what it was made from: equal for equal labels."""
    snapshot_id: str
    mode: Mode
    run_key: str | None
    """The run whose decisions and posteriors are in it; None before the first."""
    classes: tuple[str, ...]
    rows: int
    by_source: dict[str, int]
    files: dict[str, str]
    """Path below the folder → SHA-256."""


_MANIFEST = TypeAdapter(Exported)


def write_dataset(out: Path, workspace: Workspace, snapshot: Snapshot, *, mode: Mode) -> tuple[Exported, bool]:
    """Write the corrected labels of now to folder `out`; → (what it holds, whether anything was written).

    An earlier export there is replaced, unless it is the very same. Raises `DataError`, and touches nothing, where
    something else is in `out`.
    """
    run = deciding_run(workspace, snapshot)
    made_from = [FORMAT, snapshot.snapshot_id, mode, run.path.name if run else None, _trail_files(workspace)]
    export_id = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    out = out.absolute()
    if not out.name:
        raise DataError(f"{out} cannot be replaced by an export: name a folder below it (--out)")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(workspace), _staging(out) as staged:
        there = _there(out)
        if there is not None and there.export_id == export_id and _is_whole(out, there):
            return there, False
        (staged / "data").mkdir(parents=True)
        with (
            closing(LabelsOnDisk(corrected_rows(workspace, snapshot, mode=mode))) as labels,
            ImageStore(workspace.folder) as images,
        ):
            counts = _write_shards(staged / "data", _rows(labels, images, snapshot), dataset_schema(snapshot.classes))
            write_rows(staged / "history.parquet", HISTORY, history_rows(workspace, labels))
        (staged / "README.md").write_text(_card(mode, counts), encoding="utf-8")
        exported = Exported(
            format=FORMAT,
            export_id=export_id,
            snapshot_id=snapshot.snapshot_id,
            mode=mode,
            run_key=run.run_key if run else None,
            classes=snapshot.classes,
            rows=counts.total(),
            by_source=dict(sorted(counts.items())),
            files={str(path.relative_to(staged)): hash_file(path) for path in sorted(staged.rglob("*.*"))},
        )
        (staged / "manifest.json").write_text(json.dumps(asdict(exported), indent=2), encoding="utf-8")
        _place(staged, out)
    logger.info("%d corrected labels in %s", exported.rows, out)
    return exported, True


@contextmanager
def _one_at_a_time(workspace: Workspace) -> Iterator[None]:
    """A second export of the workspace waits for the first. The lock goes with its process."""
    with (workspace.folder / ".export.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A place beside `out` to write to, which is gone afterwards; what an export that died left there goes first.

    One that died with the export before moved aside, and its own not yet in place, had that one put back here.
    """
    staged, aside = _beside(out, "staged"), _beside(out, "before")
    if aside.exists() and not out.exists():
        aside.replace(out)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(staged, ignore_errors=True)
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f".{out.name}.{what}")


def _trail_files(workspace: Workspace) -> list[str]:
    """What the history is made from: the trail's files never change, so their names say what is in them."""
    kinds = ("machine", "people", "reverted")
    return sorted(path.name for kind in kinds for path in folder(workspace, kind).glob("[!.]*.parquet"))


def _there(out: Path) -> Exported | None:
    """The export that is in `out`; None where nothing is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = _MANIFEST.validate_json((out / "manifest.json").read_bytes())
    except (OSError, ValidationError):
        found = None
    if found is None or found.format != FORMAT:
        raise DataError(f"{out} holds something that is no export of corrected labels: name another folder (--out)")
    files = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if foreign := sorted(files - {*found.files, "manifest.json"}):
        raise DataError(
            f"{out} holds {foreign[0][:200]!r}, which no export wrote and a new one would delete: move it, or "
            "name another folder (--out)"
        )
    return found


def _is_whole(out: Path, exported: Exported) -> bool:
    return all((out / name).is_file() and hash_file(out / name) == digest for name, digest in exported.files.items())


def _place(staged: Path, out: Path) -> None:
    """Give `staged` the name `out`; what has it is moved aside first, and back again where that fails."""
    aside = _beside(out, "before")
    if out.exists():
        out.replace(aside)
    try:
        staged.replace(out)
    except OSError:
        if aside.exists():
            aside.replace(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _rows(labels: LabelsOnDisk, images: ImageStore, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    place: Mapping[str | None, int | None] = {name: index for index, name in enumerate(snapshot.classes)} | {None: None}
    for sha256, data in images.iter_images(labels.hashes()):
        for row in labels.of_image(sha256):
            yield row | {
                "image": {"bytes": data, "path": file_name(sha256, data)},
                "label": place[row["label"]],
                "given_label": place.get(row["given_label"]),
            }


def _write_shards(folder: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Counter[str]:
    """Write `rows` to as many files as their size asks for, at least one; → rows by source."""
    counts = Counter[str]()
    number = 0
    more = True
    while more:
        more = False
        with pq.ParquetWriter(folder / f"part-{number:05d}.parquet", schema, compression="zstd") as writer:
            written = size = 0
            for group, group_bytes in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                counts.update(row["source"] for row in group)
                written, size = written + len(group), size + group_bytes
                logger.info("%d labels exported", counts.total())
                if written + GROUP_ROWS > SHARD_ROWS or size + GROUP_BYTES > SHARD_BYTES:
                    more = True
                    break
        number += 1
    if number > 1 and written == 0:  # the last full shard was the last
        (folder / f"part-{number - 1:05d}.parquet").unlink()
    return counts


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["image"]["bytes"])
        if size >= GROUP_BYTES or len(group) >= GROUP_ROWS:
            yield group, size
            group, size = [], 0
    if group:
        yield group, size


def _card(mode: Mode, counts: Counter[str]) -> str:
    sources = {
        "original": "as the annotators gave it",
        "model": "changed by the model, above the precision that was promised",
        "review": "decided by a reviewer",
        "audit": "decided by an auditor, drawn at random",
    }
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files: data/*.parquet",
        "---",
        "# Corrected labels",
        "",
        f"{counts.total():,} images in mode `{mode}`; manifest.json says what they were made from.",
        "",
        *(f"- `{source}`: {counts[source]:,}, {meaning}" for source, meaning in sources.items()),
        "",
        "`history.parquet` tells how each label that is not the given one came about.",
        "",
        "Only labels of source `audit` may estimate anything: which samples reviewers look at depends on the model.",
        "",
    ]
    return "\n".join(lines)
