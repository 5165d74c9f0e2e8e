"""The two data sets of grey images: scikit-learn's digits and Fashion-MNIST's idx files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import mistakes
from benchmarks.data.folders import existing_folder, some_of
from benchmarks.data.source import Source, to_square
from fasten_model.errors import DataError
from fasten_model.train.seeds import generator
from pipeline.demo.image_files import read_idx

FASHION_ROOT = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's `dataset-fashion-mnist` puts the idx files."""
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load_digits(*, size: int, limit: int | None, seed: int) -> Source:
    """The 1,797 digits of 8 × 8, dark ink on white; one third, always the same, is the test part."""
    # Imported here: it takes seconds, and no other data set needs it.
    from sklearn import datasets

    digits = datasets.load_digits()
    pixels = torch.from_numpy(255 - np.rint(digits.images * (255 / 16))).to(torch.uint8)  # [1797,8,8]
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=generator(0, "digits", "test"))
    cut = len(labels) - len(labels) // 3
    train, test = order[:cut].sort().values, order[cut:].sort().values
    train = train[some_of(len(train), limit, seed, "train")]
    test = test[some_of(len(test), limit, seed, "test")]
    return Source(
        name="digits",
        train_images=to_square(pixels[train], size),
        train_labels=labels[train],
        test_images=to_square(pixels[test], size),
        test_labels=labels[test],
        classes=tuple(str(name) for name in digits.target_names),
        mistaken_for=mistakes.by_pairs(mistakes.DIGITS, 10),
    )


def load_fashion_mnist(root: Path | None, *, size: int, limit: int | None, seed: int) -> Source:
    """The four idx files, packed or not, in `root` or in torchvision's `FashionMNIST/raw` below it."""
    folder = existing_folder("fashion-mnist", root or FASHION_ROOT)
    raw = folder / "FashionMNIST" / "raw"
    folder = raw if raw.is_dir() else folder
    train_images, train_labels = _part(folder, "train", size, limit, seed)
    test_images, test_labels = _part(folder, "t10k", size, limit, seed)
    return Source(
        name="fashion-mnist",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=FASHION_CLASSES,
        mistaken_for=mistakes.by_pairs(mistakes.FASHION_MNIST, 10),
    )


def _part(folder: Path, part: str, size: int, limit: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """(uint8 [M,3,S,S], int64 [M]) of `train` or `t10k`, at most `limit` of them."""
    pixels = read_idx(folder, f"{part}-images-idx3-ubyte", dimensions=3)
    targets = read_idx(folder, f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(pixels) != len(targets) or not pixels.size:
        raise DataError(f"the {part} files in {folder} do not match: {len(pixels)} images, {len(targets)} labels")
    rows = some_of(len(pixels), limit, seed, part).numpy()
    # Copied by the choice of rows: the arrays as read cannot be written to, which tensors must be.
    return to_square(torch.from_numpy(pixels[rows]), size), torch.from_numpy(targets[rows]).long()
