"""Data sets of the harness that come as arrays: digits, idx files and torchvision's folders."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets  # type: ignore[import-untyped]

from benchmarks.data import load_source
from benchmarks.data.mistakes import CIFAR100_SUPERCLASSES
from benchmarks.data.source import Source, to_square
from fasten_model.errors import DataError


def test_the_test_third_of_the_digits_is_always_the_same() -> None:
    one, other = load_source("digits", size=8, seed=1), load_source("digits", size=8, seed=2)
    assert torch.equal(one.test_images, other.test_images)
    assert (len(one.train_labels), len(one.test_labels)) == (1198, 599)
    assert one.train_images.shape == (1198, 3, 8, 8)
    assert (torch.bincount(one.test_labels) > 40).all()


def test_digits_are_enlarged_and_limited() -> None:
    digits = load_source("digits", size=20, limit=100, seed=1)
    assert digits.train_images.shape == (100, 3, 20, 20)
    assert digits.test_images.shape == (100, 3, 20, 20)
    assert digits.train_images.float().mean() > 127  # dark ink on white


def idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_fashion(folder: Path, *, train: int = 30, labels: int = 30) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, targets in (("train", train, labels), ("t10k", 12, 12)):
        pixels = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 5, 5), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        packed = gzip.compress(idx(np.arange(targets, dtype=np.uint8) % 10))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)


@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_idx_files_are_found_with_their_labels(tmp_path: Path, below: str) -> None:
    write_fashion(tmp_path / below)
    source = load_source("fashion-mnist", root=tmp_path, size=5, limit=20, seed=1)
    assert source.train_images.shape == (20, 3, 5, 5)
    assert len(source.test_images) == 12
    # The pixels are the number of the image: its label is the last digit.
    assert torch.equal(source.train_images[:, 0, 0, 0].long() % 10, source.train_labels)
    assert source.classes[source.mistaken_for[source.classes.index("Ankle boot")]] == "Sneaker"


def test_idx_files_that_do_not_match_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path, labels=29)
    with pytest.raises(DataError, match=r"the train files in .* do not match: 30 images, 29 labels"):
        load_source("fashion-mnist", root=tmp_path, size=5)


def write_pickle(path: Path, content: dict[str, object]) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324 — torchvision's own check


def pixels(count: int, start: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Rows of 3,072 values in CIFAR's order: red, green, blue planes; red is the number of the image."""
    planes = np.zeros((count, 3, 32, 32), dtype=np.uint8)
    planes[:, 0] = np.arange(start, start + count)[:, None, None]
    return planes.reshape(count, 3072)


def publish_cifar(folder: Path, kind: type, key: str, names: list[str], patch: pytest.MonkeyPatch) -> None:
    """A folder like the published one, two images a class in each file, whose sums torchvision now expects."""
    folder.mkdir()
    count = len(names)
    lists = {}
    for attribute, files in (("train_list", ["data_batch_1", "data_batch_2"]), ("test_list", ["test_batch"])):
        lists[attribute] = [
            [name, write_pickle(folder / name, {"data": pixels(count, 50 * row), key: list(range(count))})]
            for row, name in enumerate(files)
        ]
        patch.setattr(kind, attribute, lists[attribute])
    meta = dict(kind.meta)  # type: ignore[attr-defined]
    meta["md5"] = write_pickle(folder / meta["filename"], {meta["key"]: names})
    patch.setattr(kind, "meta", meta)


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_a_folder_of_cifar10_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    names = [f"class {label}" for label in range(10)]
    publish_cifar(tmp_path / "cifar-10-batches-py", datasets.CIFAR10, "labels", names, monkeypatch)
    source = load_source("cifar10", root=tmp_path / below, size=32, limit=15, seed=1)
    assert source.train_images.shape == (15, 3, 32, 32)
    assert len(source.test_images) == 10
    assert torch.equal(source.train_images[:, 0, 3, 7].long() % 50, source.train_labels)
    assert (source.train_images[:, 1:] == 0).all()
    assert source.mistaken_for[9] == 1


def test_a_folder_of_cifar100_knows_its_superclasses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(name for members in CIFAR100_SUPERCLASSES for name in members)
    publish_cifar(tmp_path / "cifar-100-python", datasets.CIFAR100, "fine_labels", names, monkeypatch)
    source = load_source("cifar100", root=tmp_path, size=16)
    assert source.train_images.shape == (200, 3, 16, 16)
    assert source.classes[source.mistaken_for[names.index("baby")]] == "boy"


def test_a_changed_file_of_cifar10_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    publish_cifar(folder, datasets.CIFAR10, "labels", list("0123456789"), monkeypatch)
    (folder / "data_batch_1").write_bytes(pickle.dumps("something else"))
    with pytest.raises(DataError, match="holds no whole cifar-10-batches-py as published"):
        load_source("cifar10", root=tmp_path, size=32)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar10n", "clothing1m"])
def test_a_missing_folder_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"the data set {name} needs the folder"):
        load_source(name, size=32)
    with pytest.raises(DataError, match=f"no folder .*nowhere; give the folder of the files of {name}"):
        load_source(name, root=tmp_path / "nowhere", size=32)
    with pytest.raises(DataError) as raised:
        load_source(name, root=tmp_path, size=32)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("mnist", {"size": 32}, "no data set is called 'mnist'; there are digits, fashion-mnist"),
        ("digits", {"size": 0}, "an image side of 0"),
        ("digits", {"size": 8, "limit": 0}, "a limit of 0"),
    ],
)
def test_bad_arguments_are_refused(name: str, options: dict[str, int], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load_source(name, **options)  # type: ignore[arg-type]


def test_grey_becomes_three_equal_channels() -> None:
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for size in (16, 20, 7):
        images = to_square(grey, size)
        assert images.shape == (1, 3, size, size)
        assert torch.equal(images[:, 0], images[:, 2])


def test_a_source_checks_what_it_is_given(source: Source) -> None:
    with pytest.raises(DataError, match="has a label outside"):
        Source(
            name="broken",
            train_images=source.train_images,
            train_labels=source.train_labels,
            test_images=source.test_images,
            test_labels=source.test_labels,
            classes=("a", "b"),
            mistaken_for=(1, 0),
        )
