"""Small inline Parquet files of squares that a network tells apart at once, and a model trained on them."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

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
