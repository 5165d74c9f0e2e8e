"""CIFAR-10 with the labels of people (Wei et al., ICLR 2022), from two Parquet files with the image inline."""

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import mistakes
from benchmarks.data.folders import existing_folder, some_of
from benchmarks.data.source import UNKNOWN, Source
from fasten_model.errors import DataError
from fasten_model.images.decode import decode_image
from pipeline.demo.image_rows import read_columns, read_images, stated_classes

HUMAN = ("rater_1", "rater_2", "rater_3", "aggregate", "worst")


def load_cifar10n(root: Path | None, *, size: int, limit: int | None, seed: int) -> Source:
    """`train.parquet` and `test.parquet` in `root`; only the chosen rows are decoded."""
    folder = existing_folder("cifar10n", root)
    train, test = folder / "train.parquet", folder / "test.parquet"
    classes = stated_classes(train, ["clean_label"])
    if classes is None or len(classes) < 2:
        raise DataError(f"{train} does not name its classes (schema metadata 'classes')")
    columns = _labels(train, ("clean_label", *HUMAN), classes)
    truth = _labels(test, ("clean_label",), classes)["clean_label"]
    rows = some_of(len(columns["clean_label"]), limit, seed, "train")
    test_rows = some_of(len(truth), limit, seed, "test")
    return Source(
        name="cifar10n",
        train_images=decode_rows(train, rows, size),
        train_labels=columns["clean_label"][rows],
        test_images=decode_rows(test, test_rows, size),
        test_labels=truth[test_rows],
        classes=classes,
        mistaken_for=mistakes.by_pairs(mistakes.CIFAR10, len(classes)),
        human={name: columns[name][rows] for name in HUMAN},
    )


def decode_rows(path: Path, rows: Tensor, size: int) -> Tensor:
    """uint8 [n,3,size,size]: the images of `rows` [n] of a Parquet file; DataError names a row without a good one."""
    encoded = read_images(path, rows.tolist())
    images = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    for position, row in enumerate(rows.tolist()):
        if row not in encoded:
            raise DataError(f"{path} row {row} holds no image; give the file as published")
        try:
            images[position] = decode_image(encoded[row], size)
        except DataError as error:
            raise DataError(f"{path} row {row}: {error}") from error
    return images


def _labels(path: Path, names: tuple[str, ...], classes: tuple[str, ...]) -> dict[str, Tensor]:
    """Column → int64 [M], −1 for a null."""
    index = {name: position for position, name in enumerate(classes)}
    columns = read_columns(path, names, required=names, classes=classes)
    return {
        name: torch.tensor([UNKNOWN if each is None else index.get(each, UNKNOWN) for each in column])
        for name, column in columns.items()
    }
