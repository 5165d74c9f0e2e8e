"""The data sets of the harness by name, from local files only.

* `digits`: scikit-learn's 1,797 digits · `fashion-mnist`: the idx files · `cifar10`, `cifar100`: torchvision's folders
* `cifar10n`: CIFAR-10 with human labels, `train.parquet` and `test.parquet` (Wei et al., ICLR 2022)
* `clothing1m`: the official layout (Xiao et al., CVPR 2015) · `parquet`: your own `clean.parquet` and `noisy.parquet`
"""

from pathlib import Path

from benchmarks.data.cifar import load_cifar
from benchmarks.data.cifar10n import load_cifar10n
from benchmarks.data.clothing1m import load_clothing1m
from benchmarks.data.grey import load_digits, load_fashion_mnist
from benchmarks.data.own_parquet import load_parquet
from benchmarks.data.source import Source
from fasten_model.errors import DataError

DATASETS = ("digits", "fashion-mnist", "cifar10", "cifar100", "cifar10n", "clothing1m", "parquet")


def load_source(
    name: str,
    *,
    root: Path | None = None,
    size: int,
    limit: int | None = None,
    seed: int = 0,
    clean: Path | None = None,
    noisy: Path | None = None,
) -> Source:
    """The data set `name`, images size × size.

    root: the folder of its files. limit: at most so many images of each part (training and test; for clothing1m and
    parquet noisy, clean, validation and test) are drawn with `seed` and kept in memory; None: all, or 100,000 a list
    of clothing1m. clean, noisy: the files of `parquet` where they are not `root`'s clean.parquet and noisy.parquet.
    Raises DataError, one line, for an unknown name and for files that are missing or unusable.
    """
    if size < 1:
        raise DataError(f"an image side of {size} pixels; give --size 1 or more")
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} leaves no image; give --limit 1 or more")
    match name:
        case "digits":
            return load_digits(size=size, limit=limit, seed=seed)
        case "fashion-mnist":
            return load_fashion_mnist(root, size=size, limit=limit, seed=seed)
        case "cifar10" | "cifar100":
            return load_cifar(name, root, size=size, limit=limit, seed=seed)
        case "cifar10n":
            return load_cifar10n(root, size=size, limit=limit, seed=seed)
        case "clothing1m":
            return load_clothing1m(root, size=size, limit=limit, seed=seed)
        case "parquet":
            clean = clean or (root and root / "clean.parquet")
            noisy = noisy or (root and root / "noisy.parquet")
            return load_parquet(clean, noisy, size=size, limit=limit, seed=seed)
    raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
