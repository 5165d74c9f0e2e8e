"""Reference images: audited ones, the least doubted first, small, and never a broken one."""

import base64
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipeline.images import ImageStore
from pipeline.images.check import VerifiedImage
from pipeline.references import PER_CLASS, SIDE_PX, reference_images

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]


def png(side: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def stored(root: Path, images: dict[str, bytes]) -> ImageStore:
    """The images of samples, under the hashes that `make_snapshot` gives them."""
    store = ImageStore(root)
    for name, data in images.items():
        sha256 = hashlib.sha256(f"image of {name}".encode()).hexdigest()
        store.add(f"/{name}.png", VerifiedImage(sha256=sha256, data=data, format="PNG", width=8, height=8))
    return store


def shown(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_each_class_has_its_least_doubted_examples(tmp_path: Path, make_snapshot: Make) -> None:
    names = [f"{label}{number}" for label in "ab" for number in range(PER_CLASS + 2)]
    snapshot = make_snapshot(
        tmp_path, clean={name: ("dark" if name[0] == "a" else "grey", None, "audit") for name in names}
    )
    images = {name: png(8, seed) for seed, name in enumerate(names)}
    doubts = {"a0": 0.9, "a1": 0.8, "a2": 0.01, "a3": 0.02, "a4": 0.03}
    with stored(tmp_path, images) as store:
        found = reference_images(snapshot, store, doubts)
    assert set(found) == {"dark", "grey"}
    assert len(found["grey"]) == PER_CLASS
    pixels = [np.asarray(shown(uri)).tolist() for uri in found["dark"]]
    assert pixels == [np.asarray(shown_png(images[name])).tolist() for name in ("a2", "a3", "a4")], "small ones stay"


def shown_png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_large_images_shrink_and_broken_ones_are_left_out(tmp_path: Path, make_snapshot: Make) -> None:
    snapshot = make_snapshot(tmp_path, clean=dict.fromkeys(("large", "odd"), ("dark", None, "audit")))
    with stored(tmp_path, {"large": png(400, 1), "odd": b"no image"}) as store:
        [uri] = reference_images(snapshot, store)["dark"]
    assert shown(uri).size == (SIDE_PX, SIDE_PX)
    assert len(uri) < 20_000
