"""The data sets of the demonstration, each cut into tasks to be labelled and images held out.

* `digits`: the 1,797 handwritten digits that scikit-learn ships, enlarged so that a person can read them
* `fashion-mnist`: the idx files of Fashion-MNIST (Debian's `dataset-fashion-mnist`) in `root`
* `cifar10n`: CIFAR-10 with three human labels an image (Wei et al., ICLR 2022): `train.parquet`, `test.parquet`
* `parquet`: your own `clean.parquet` and `noisy.parquet` with the image inline

Everything drawn at random depends on `seed` alone, and what is held out does not depend on `limit`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.demo.annotators import DIGIT_ANNOTATORS, FASHION_ANNOTATORS, Annotator, simulated_votes
from pipeline.demo.image_files import png, read_idx
from pipeline.demo.parquet_datasets import load_cifar10n, load_own_files
from pipeline.demo.records import AuditPlace, DemoDataset, DemoSample, HeldOut, Vote
from pipeline.demo.sampling import audit_places, audit_size, generator
from pipeline.errors import DataError

__all__ = ["DATASETS", "AuditPlace", "DemoDataset", "DemoSample", "HeldOut", "Vote", "load_dataset"]

DATASETS = ("digits", "fashion-mnist", "cifar10n", "parquet")

DIGIT_TASKS = 1_400
DIGIT_SIDE = 128
DEFAULT_TASKS = 2_000
"""Tasks of the bigger data sets: the demonstration stays under five minutes on two cores."""
MOST_HELD_OUT = 1_000

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load_dataset(
    name: str,
    *,
    root: Path | None = None,
    clean: Path | None = None,
    noisy: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> DemoDataset:
    """The data set `name` with at most `limit` tasks.

    `root` is the folder of the files (`fashion-mnist`, `cifar10n`); `clean` and `noisy` are the two files of
    `parquet`. Raises DataError, in one line, for an unknown name, a missing path, and files that cannot be used.
    """
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} leaves nothing to label; give --limit 1 or more")
    match name:
        case "digits":
            return _digits(limit or DIGIT_TASKS, seed)
        case "fashion-mnist":
            return _fashion_mnist(_folder(name, root), limit or DEFAULT_TASKS, seed)
        case "cifar10n":
            return load_cifar10n(_folder(name, root), limit or DEFAULT_TASKS, MOST_HELD_OUT, seed)
        case "parquet":
            if clean is None or noisy is None:
                raise DataError("the data set parquet needs two files: give --clean F and --noisy F")
            return load_own_files(clean, noisy, limit or DEFAULT_TASKS, MOST_HELD_OUT, seed)
    raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")


def _folder(name: str, root: Path | None) -> Path:
    if root is None:
        raise DataError(f"the data set {name} needs the folder of its files: give --root DIR")
    if not root.is_dir():
        raise DataError(f"no folder {root}; give the folder of the files of {name} with --root")
    return root


def _digits(limit: int, seed: int) -> DemoDataset:
    # Imported here: it takes seconds, and no other data set needs it.
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = (255 - np.rint(source.images * (255 / 16))).astype(np.uint8)  # [1797,8,8], dark ink on white
    truths = [str(target) for target in source.target]
    order = generator(seed, "draw").permutation(len(truths)).tolist()
    drawn, held_out = order[:DIGIT_TASKS][:limit], order[DIGIT_TASKS:]
    classes = tuple(str(digit) for digit in source.target_names)
    return DemoDataset(
        name="digits",
        classes=classes,
        samples=_simulated(
            "digits", drawn, truths, classes, DIGIT_ANNOTATORS, lambda i: png(pixels[i], side=DIGIT_SIDE), seed
        ),
        held_out=tuple(HeldOut(image=png(pixels[i], side=DIGIT_SIDE), truth=truths[i]) for i in held_out),
        native_size=8,
    )


def _fashion_mnist(root: Path, limit: int, seed: int) -> DemoDataset:
    pixels, truths = _fashion_part(root, "train")
    test_pixels, test_truths = _fashion_part(root, "t10k")
    drawn = generator(seed, "draw").permutation(len(truths))[:limit].tolist()
    held_out = generator(seed, "held out").permutation(len(test_truths))[:MOST_HELD_OUT].tolist()
    return DemoDataset(
        name="fashion-mnist",
        classes=FASHION_CLASSES,
        samples=_simulated(
            "fashion-mnist", drawn, truths, FASHION_CLASSES, FASHION_ANNOTATORS, lambda i: png(pixels[i]), seed
        ),
        held_out=tuple(HeldOut(image=png(test_pixels[i]), truth=test_truths[i]) for i in held_out),
        native_size=pixels.shape[1],
    )


def _fashion_part(root: Path, part: str) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], list[str]]:
    """`pixels[N,H,W]` and N class names."""
    pixels = read_idx(root, f"{part}-images-idx3-ubyte", dimensions=3)
    targets = read_idx(root, f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(pixels) != len(targets) or 0 in pixels.shape:
        raise DataError(f"the {part} files in {root} do not match: {len(pixels)} images, {len(targets)} labels")
    if targets.max() >= len(FASHION_CLASSES):
        raise DataError(f"the {part} labels in {root} go up to {targets.max()}, beyond Fashion-MNIST's ten classes")
    return pixels, [FASHION_CLASSES[target] for target in targets]


def _simulated(
    prefix: str,
    drawn: Sequence[int],
    truths: Sequence[str],
    classes: Sequence[str],
    annotators: Sequence[Annotator],
    image: Callable[[int], bytes],
    seed: int,
) -> tuple[DemoSample, ...]:
    """The images at `drawn`, labelled by `annotators`, part of them audited."""
    votes = simulated_votes([truths[i] for i in drawn], classes, annotators, generator(seed, "votes"))
    audits = audit_places(len(drawn), audit_size(len(drawn), len(classes)), generator(seed, "audit"))
    return tuple(
        DemoSample(sample_id=f"{prefix}-{i:05d}", image=image(i), truth=truths[i], votes=said, audit=audit)
        for i, said, audit in zip(drawn, votes, audits, strict=True)
    )
