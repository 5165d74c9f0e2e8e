"""Which files and which rows are read."""

from pathlib import Path

import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.train.seeds import generator


def existing_folder(dataset: str, root: Path | None) -> Path:
    """`root`, where it is a folder; DataError otherwise."""
    if root is None:
        raise DataError(f"the data set {dataset} needs the folder of its files: give --root DIR")
    if not root.is_dir():
        raise DataError(f"no folder {root}; give the folder of the files of {dataset} with --root")
    return root


def some_of(count: int, limit: int | None, seed: int, *purpose: str) -> Tensor:
    """int64 [min(count, limit)]: rows drawn at random, in ascending order; all of them where no limit cuts."""
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator(seed, "limit", *purpose))[:limit].sort().values
