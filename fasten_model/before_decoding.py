"""What a training from two files would fail on, told before the first image is decoded: that takes hours.

Nothing is refused here that could be trained on if every image turned out to be sound, or some did not; what depends on
the images is told by `fasten_model.fitting` once they are known.
"""

from contextlib import suppress
from pathlib import Path

import torch

from fasten_model.errors import DataError
from fasten_model.fitting import check_audited, check_classes
from fasten_model.images.parquet import classes_with_an_image, read_labels
from fasten_model.labelled_files import all_classes
from fasten_model.network import build_network
from fasten_model.train import TrainConfig
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.whole_file import check_writable


def check_places(out: Path, checkpoint: CheckpointConfig | None) -> None:
    """`DataError` where the model or its checkpoints cannot be written."""
    with suppress(OSError):  # a name that is too long, say: `check_writable` tells
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file: give --out a folder")
    check_writable(out)
    if checkpoint is not None:
        check_writable(checkpoint.path, "no checkpoint")


def check_network(config: TrainConfig) -> None:
    """`DataError` where there is no such trunk, or its weights do not fit it. No random number is used up."""
    settings = config.settings()
    with torch.random.fork_rng(devices=[]):
        build_network(settings.trunk, 2, image_size=settings.image_size, weights=config.trunk_weights)


def check_files(clean: str | Path, noisy: str | Path, *, size: int) -> None:
    """`DataError` where the files are not of the form that is read, or their labels cannot be trained on.

    Of a class that has no audited sample an image is decoded: a class whose images are all broken is no matter.
    size: of the images that are decoded in the end.
    """
    audited, bulk = read_labels(clean, audited=True), read_labels(noisy)
    for path, labels in ((clean, audited), (noisy, bulk)):
        check_some(path, len(labels.rows), labels.rejected)
    classes = all_classes(audited.classes, bulk.classes)
    if len(classes) == 1:
        raise DataError(f"{clean} and {noisy} know only one class (“{classes[0]}”): there is nothing to tell apart")
    check_classes(classes)
    if not any(row.estimates for row in audited.rows):
        raise DataError(
            f"{clean}: provenance is “review” in every usable row, so that T cannot be estimated: audit a few hundred "
            "samples that are drawn at random (“audit”)"
        )
    known = {row.sample_id for row in audited.rows}
    learnable = {audited.classes[row.label] for row in audited.rows}
    others = {row.number: bulk.classes[row.label] for row in bulk.rows if row.sample_id not in known}
    others = {number: name for number, name in others.items() if name not in learnable}
    if others:
        check_audited(classes_with_an_image(noisy, others, size=size), learnable, classes)


def check_some(path: str | Path, count: int, rejected: tuple[tuple[str, str], ...] = ()) -> None:
    """`DataError` where a file has no usable row."""
    if count == 0:
        why = f"; the first row: {rejected[0][1]}" if rejected else ""
        raise DataError(f"{path} has no sample that can be trained on{why}")
