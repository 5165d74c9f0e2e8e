"""Labelled images in memory, from a snapshot or from the two inline Parquet files."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch

from fasten_model.data import Samples, decode_image, read_samples
from pipeline.errors import DataError
from pipeline.images.store import ImageStore
from pipeline.snapshot import Snapshot
from pipeline.training import LabelledImages

logger = logging.getLogger(__name__)

UNKNOWN = -1


def load_noisy(snapshot: Snapshot, store: ImageStore, *, size: int) -> LabelledImages:
    """The snapshot's noisy samples, decoded to `size`×`size`; what does not decode is logged and left out."""
    return _load(snapshot.noisy_path, snapshot.classes, store, size=size)


def load_clean(snapshot: Snapshot, store: ImageStore, *, size: int) -> LabelledImages:
    """The snapshot's audited samples; `estimates` is true for those drawn at random (provenance `audit`)."""
    return _load(snapshot.clean_path, snapshot.classes, store, size=size)


def _load(path: Path, classes: Sequence[str], store: ImageStore, *, size: int) -> LabelledImages:
    rows = pq.read_table(path)
    index = {name: position for position, name in enumerate(classes)}
    hashes: list[str] = rows["image_sha256"].to_pylist()
    places: dict[str, list[int]] = {}
    for row, sha256 in enumerate(hashes):
        places.setdefault(sha256, []).append(row)
    images = torch.zeros(len(hashes), 3, size, size, dtype=torch.uint8)
    usable = torch.zeros(len(hashes), dtype=torch.bool)
    for sha256, data in store.iter_images(places):
        try:
            decoded = decode_image(data, size)
        except DataError as error:
            logger.warning("image %s is left out: %s", sha256[:12], error)
            continue
        images[places[sha256]] = decoded
        usable[places[sha256]] = True
    if missing := int((~usable).sum()):
        logger.warning(
            "%d of %d samples of %s are left out: their image does not decode", missing, len(hashes), path.name
        )
    audited = "given_label" in rows.column_names
    given: list[str | None] = rows["given_label"].to_pylist() if audited else [None] * len(hashes)
    provenance = rows["provenance"].to_pylist() if audited else ["noisy"] * len(hashes)
    every = LabelledImages(
        sample_ids=tuple(rows["sample_id"].to_pylist()),
        images=images,
        labels=torch.tensor([index[name] for name in rows["label"].to_pylist()], dtype=torch.int64),
        given_labels=torch.tensor([UNKNOWN if name is None else index[name] for name in given], dtype=torch.int64),
        estimates=torch.tensor([kind == "audit" for kind in provenance], dtype=torch.bool),
    )
    return every.at(usable)


def load_files(clean: Path, noisy: Path, *, size: int) -> tuple[LabelledImages, LabelledImages, tuple[str, ...]]:
    """(noisy, clean, classes) from the two inline Parquet files; every clean row counts as drawn at random.

    A sample in both files is an audited one: what the noisy file says of it is its given label.

    The classes are those of the clean file, then those that only the noisy file has (which no training will take, for
    want of an audited sample: `training.check_trainable` says so).
    """
    clean_samples, noisy_samples = read_samples(clean, size=size), read_samples(noisy, size=size)
    classes = tuple(clean_samples.classes)
    classes += tuple(name for name in noisy_samples.classes if name not in classes)
    position = torch.tensor([classes.index(name) for name in noisy_samples.classes], dtype=torch.int64)
    noisy_set, clean_set = from_samples(noisy_samples, noisy), from_samples(clean_samples, clean)
    return *_apart(replace(noisy_set, labels=position[noisy_set.labels]), clean_set), classes


def _apart(noisy: LabelledImages, clean: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """No sample in both: training would otherwise see those held out, and labels that are known to be wrong."""
    audited = set(clean.sample_ids)
    both = torch.tensor([sample_id in audited for sample_id in noisy.sample_ids], dtype=torch.bool)
    if not both.any():
        return noisy, clean
    logger.info("%d samples are in both files: their audited label counts", int(both.sum()))
    said = dict(zip(noisy.sample_ids, noisy.labels.tolist(), strict=True))
    given = [
        said.get(sample_id, UNKNOWN) if label == UNKNOWN else label
        for sample_id, label in zip(clean.sample_ids, clean.given_labels.tolist(), strict=True)
    ]
    return noisy.at(~both), replace(clean, given_labels=torch.tensor(given, dtype=torch.int64))


def from_samples(samples: Samples, path: Path) -> LabelledImages:
    """The usable rows of an inline Parquet file; what was rejected is logged, by reason."""
    reasons: dict[str, int] = {}
    for _, reason in samples.rejected:
        reasons[reason] = reasons.get(reason, 0) + 1
    if samples.rejected:
        logger.warning(
            "%s: %d of %d rows are left out",
            path,
            len(samples.rejected),
            len(samples.rejected) + len(samples.sample_ids),
        )
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:5]:
        logger.warning("  %d: %s", count, reason)
    if len(reasons) > 5:
        logger.warning("  and more for %d other reasons", len(reasons) - 5)
    return LabelledImages(
        sample_ids=tuple(samples.sample_ids),
        images=samples.images,
        labels=samples.labels,
        given_labels=samples.given_labels,
        estimates=torch.ones(len(samples.sample_ids), dtype=torch.bool),
    )
