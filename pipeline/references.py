"""Reference images: audited examples of a class, small enough to travel inside a question.

A reviewer who is offered “8” sees what others have called an 8. They are drawn from the audited samples, are the same
for every question of a round, and are `data:` URIs: nothing has to be reachable for whoever looks at the queue.
"""

import base64
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from torchvision.io import encode_jpeg, encode_png  # type: ignore[import-untyped]

from fasten_model.errors import DataError
from fasten_model.images.decode import decode_image
from fasten_model.images.header import read_header
from pipeline.images import ImageStore
from pipeline.snapshot import Snapshot

PER_CLASS = 3
SIDE_PX = 96
"""Longest side: about 4 kB as a JPEG."""
_LOSSLESS_UP_TO_PX = 40


def reference_images(
    snapshot: Snapshot, store: ImageStore, doubts: Mapping[str, float] | None = None
) -> dict[str, tuple[str, ...]]:
    """Class → `data:` URIs of up to three audited images of it, those that the model doubts least.

    doubts: `sample_id` → probability that its decision is wrong; without it the order is that of the ids.
    """
    chosen = _chosen(pq.read_table(snapshot.clean_path, columns=["sample_id", "image_sha256", "label"]), doubts or {})
    images = dict(store.iter_images({sha256 for hashes in chosen.values() for sha256 in hashes}))
    shown = {sha256: uri for sha256, data in images.items() if (uri := _thumbnail(data)) is not None}
    return {label: tuple(shown[sha256] for sha256 in hashes if sha256 in shown) for label, hashes in chosen.items()}


def _chosen(clean: pa.Table, doubts: Mapping[str, float]) -> dict[str, Sequence[str]]:
    """Class → hashes of its examples."""
    of_class: dict[str, dict[str, None]] = {}
    for row in sorted(clean.to_pylist(), key=lambda row: (doubts.get(row["sample_id"], 0.5), row["sample_id"])):
        hashes = of_class.setdefault(row["label"], {})
        if len(hashes) < PER_CLASS:
            hashes[row["image_sha256"]] = None
    return {label: tuple(hashes) for label, hashes in of_class.items()}


def _thumbnail(data: bytes) -> str | None:
    """A square `data:` URI of the image, no larger than it is; None where it does not decode."""
    try:
        header = read_header(data)
        side = min(SIDE_PX, max(header.width, header.height))
        image = decode_image(data, side)
    except DataError:
        return None
    kind, encoded = ("png", encode_png(image)) if side <= _LOSSLESS_UP_TO_PX else ("jpeg", encode_jpeg(image, 80))
    return f"data:image/{kind};base64,{base64.b64encode(_bytes(encoded)).decode()}"


def _bytes(encoded: Tensor) -> bytes:
    data: bytes = encoded.numpy().tobytes()
    return data
