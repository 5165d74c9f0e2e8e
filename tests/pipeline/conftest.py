"""Small inline Parquet files of squares that a network tells apart at once, a model trained on them, and snapshots."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

CLASSES = ("bright", "dark", "grey")
_LEVELS = {"dark": 40, "grey": 128, "bright": 215}
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Row = tuple[str | None, bytes | None, str | None]
"""sample_id, image bytes, label."""


def square(shade: str, number: int) -> bytes:
    """A noisy 8×8 PNG of one shade."""
    noise = np.random.default_rng(number).integers(-35, 36, size=(8, 8))
    buffer = io.BytesIO()
    Image.fromarray((_LEVELS[shade] + noise).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def squares(name: str, count: int, *, wrong_every: int = 0) -> list[Row]:
    """`count` squares of all shades in turn; every so many-th one bears the next shade's name."""
    rows: list[Row] = []
    for i in range(count):
        label = CLASSES[(i + (wrong_every > 0 and i % wrong_every == 0)) % len(CLASSES)]
        rows.append((f"{name}-{i}", square(CLASSES[i % len(CLASSES)], i), label))
    return rows


def write(path: Path, rows: Iterable[Row], *, given: Sequence[str | None] | None = None) -> Path:
    """`rows` in the inline layout of `clean.parquet` and `noisy.parquet`."""
    ids, images, labels = zip(*rows, strict=True) if (rows := list(rows)) else ((), (), ())
    columns = {
        "sample_id": pa.array(ids, pa.string()),
        "image": pa.array([None if data is None else {"bytes": data, "path": None} for data in images], _IMAGE),
        "label": pa.array(labels, pa.string()),
    }
    if given is not None:
        columns["given_label"] = pa.array(given, pa.string())
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and none of the shell's settings."""
    for name in [name for name in os.environ if name.startswith("FASTEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clean(own_folder: Path) -> Path:
    """30 audited squares."""
    return write(own_folder / "clean.parquet", squares("audited", 30))


@pytest.fixture
def noisy(own_folder: Path) -> Path:
    """90 squares, every fifth with a wrong label."""
    return write(own_folder / "noisy.parquet", squares("bulk", 90, wrong_every=5))


@pytest.fixture
def write_samples() -> Callable[..., Path]:
    """`write`."""
    return write


@pytest.fixture
def make_squares() -> Callable[..., list[Row]]:
    """`squares`."""
    return squares


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model of those squares: copy it before you damage it."""
    from pipeline.settings import Settings
    from pipeline.standalone import train_files

    folder = tmp_path_factory.mktemp("trained")
    train_files(
        clean=write(folder / "clean.parquet", squares("audited", 30)),
        noisy=write(folder / "noisy.parquet", squares("bulk", 90, wrong_every=5)),
        out=folder / "model",
        settings=Settings(epochs=3, device="cpu"),
    )
    return folder / "model"


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def write_snapshot(
    root: Path,
    *,
    labels: Iterable[Mapping[str, Any]] = (),
    noisy: Mapping[str, str] | None = None,
    clean: Mapping[str, tuple[str, str | None, str]] | None = None,
    undecided: Mapping[str, tuple[str | None, str, Sequence[str]]] | None = None,
    classes: Sequence[str] = CLASSES,
) -> "Snapshot":
    """A snapshot below `root` of these rows, as a pull would leave it; the image of sample `s` is `image of s`'s.

    labels: rows in part; what is left out is an annotator's vote. noisy: sample → label. clean: sample → (label, given
    label, provenance). undecided: sample → (given label, state, classes that people named).
    """
    from pipeline.snapshot import Latest, write_latest
    from pipeline.snapshot.writer import SnapshotWriter, exclusive_pull

    def sample(name: str) -> dict[str, Any]:
        return {"sample_id": name, "image_sha256": hashlib.sha256(f"image of {name}".encode()).hexdigest()}

    usual = {"project_id": 1, "task_id": 1, "annotation_id": 1, "annotator": "user:1", "answer": "class", "label": None}
    usual |= {"ground_truth": False, "was_cancelled": False, "lead_time_s": 2.5, "created_at": NOON, "updated_at": NOON}
    usual |= {"origin": "labels", "asked_as": None, "suggestion": None, "asked_by_run": None}
    with exclusive_pull(root) as folder, SnapshotWriter(folder / "snapshot", classes) as writer:
        for row in sorted(labels, key=lambda row: (row["sample_id"], row.get("annotation_id", 1))):
            writer.add("labels", usual | dict(row))
        for name, label in sorted((noisy or {}).items()):
            votes = [{"annotator": "user:1", "label": label}]
            writer.add("noisy", sample(name) | {"image_url": f"/{name}.png", "label": label, "votes": votes})
        for name, (label, given, provenance) in sorted((clean or {}).items()):
            who = {"provenance": provenance, "auditor": "user:9", "audited_at": NOON, "image_url": f"/{name}.png"}
            writer.add("clean", sample(name) | {"label": label, "given_label": given, "votes": []} | who)
        for name, (given, state, said) in sorted((undecided or {}).items()):
            answers = [
                {"annotator": f"user:{number}", "answer": "class", "label": label} for number, label in enumerate(said)
            ]
            more = {"image_url": f"/{name}.png", "label": given, "votes": [], "state": state, "answers": answers}
            writer.add("undecided", sample(name) | more)
        snapshot, _ = writer.finish(root, rejected={}, projects=[], states=[])
    write_latest(root, Latest(snapshot_id=snapshot.snapshot_id))
    return snapshot


@pytest.fixture
def make_snapshot() -> Callable[..., "Snapshot"]:
    """`write_snapshot`."""
    return write_snapshot


def table_of_scores(snapshot: "Snapshot", said: Mapping[str, tuple[str, str]], version: str = "fasten/1") -> pa.Table:
    """Scores of the snapshot's noisy samples: sample → (what the model says, decision); "keep" of all others."""
    from pipeline.schema import SCORES

    rows = []
    for row in pq.read_table(snapshot.noisy_path).to_pylist():
        label, decision = said.get(row["sample_id"], (row["label"], "keep"))
        q = [0.9 if name == label else 0.1 / (len(snapshot.classes) - 1) for name in snapshot.classes]
        rows.append(
            {
                "sample_id": row["sample_id"],
                "given_label": row["label"],
                "suggested_label": label if decision == "relabel" else row["label"],
                "model_label": label,
                "model_label_probability": 0.9,
                "confidence": 0.8,
                "given_label_probability": 0.7,
                "error_probability": 1 - q[snapshot.classes.index(row["label"])],
                "posterior": q,
                "decision": decision,
                "priority": 0.1,
                "model_version": version,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCORES)


@pytest.fixture
def make_scores() -> Callable[..., pa.Table]:
    """`table_of_scores`."""
    return table_of_scores
