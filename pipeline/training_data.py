"""Labelled images in memory, from a snapshot."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch

from fasten_model.images.parquet import decode_image
from fasten_model.labelled import UNKNOWN, LabelledImages
from pipeline.errors import DataError
from pipeline.images.store import ImageStore
from pipeline.snapshot import Snapshot

logger = logging.getLogger(__name__)


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
