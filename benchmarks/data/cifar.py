"""CIFAR-10 and CIFAR-100 from the folders of `torchvision.datasets`.

Their files are pickles from the user's own disk. torchvision compares the MD5 sum of each with the published one before
it opens it, so nothing but the published files is ever unpickled; nothing is downloaded.
"""

from pathlib import Path

import torch
from torchvision import datasets  # type: ignore[import-untyped]

from benchmarks.data import mistakes
from benchmarks.data.folders import existing_folder, some_of
from benchmarks.data.source import Source, to_square
from fasten_model.errors import DataError


def load_cifar(name: str, root: Path | None, *, size: int, limit: int | None, seed: int) -> Source:
    """`cifar10` or `cifar100`: `root` is the folder given to torchvision, or the unpacked folder itself."""
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    folder = existing_folder(name, root)
    if folder.resolve().name == kind.base_folder:
        folder = folder.resolve().parent
    try:
        train, test = (kind(str(folder), train=part, download=False) for part in (True, False))
    except RuntimeError as error:
        raise DataError(
            f"{folder} holds no whole {kind.base_folder} as published; unpack {kind.filename} there or give --root"
        ) from error
    classes = tuple(str(each) for each in train.classes)
    rows = {"train": some_of(len(train), limit, seed, "train"), "test": some_of(len(test), limit, seed, "test")}
    images = {
        part: to_square(torch.from_numpy(data.data[rows[part].numpy()]).permute(0, 3, 1, 2), size)
        for part, data in (("train", train), ("test", test))
    }
    return Source(
        name=name,
        train_images=images["train"],
        train_labels=torch.tensor(train.targets)[rows["train"]],
        test_images=images["test"],
        test_labels=torch.tensor(test.targets)[rows["test"]],
        classes=classes,
        mistaken_for=mistakes.by_pairs(mistakes.CIFAR10, 10)
        if name == "cifar10"
        else mistakes.next_in_superclass(classes, mistakes.CIFAR100_SUPERCLASSES),
    )
