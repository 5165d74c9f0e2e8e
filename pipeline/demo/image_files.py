"""Image bytes as they are found and made: PNG encoding, kinds told by their first bytes, idx files."""

import gzip
import io
import math
import struct
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DataError

_MAGIC = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"GIF8", "gif"), (b"BM", "bmp"))

_IDX_UINT8 = 0x08
_IDX_MOST_VALUES = 2**31


def extension(data: bytes) -> str | None:
    """`png`, `jpg`, `gif`, `bmp` or `webp` by the first bytes; None for all else (SVG too: it carries scripts)."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def png(pixels: NDArray[np.uint8], *, side: int | None = None) -> bytes:
    """Grey `pixels[H,W]` as PNG, enlarged smoothly to `side` × `side` where that is given."""
    image = Image.fromarray(pixels)
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def read_idx(root: Path, name: str, *, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array in `root/name` or `root/name.gz` (the idx format of MNIST and Fashion-MNIST).

    Raises DataError when neither is there, or what is there is not such an array of `dimensions` dimensions.
    """
    path = next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise DataError(f"no {name} or {name}.gz in {root}; give the folder of the idx files with --root")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse_idx(cast(BinaryIO, file), dimensions)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not an idx file of {dimensions} dimensions: {error}") from error


def _parse_idx(file: BinaryIO, dimensions: int) -> NDArray[np.uint8]:
    zero, kind, found = struct.unpack(">HBB", file.read(4))
    if (zero, kind, found) != (0, _IDX_UINT8, dimensions):
        raise ValueError(f"its first bytes say type {kind:#x} with {found} dimensions")
    shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    values = math.prod(shape)
    if values > _IDX_MOST_VALUES:
        raise ValueError(f"its header claims {values} values")
    # One byte more than promised: enough to notice a longer file, whatever it would unpack to.
    data = file.read(values + 1)
    if len(data) != values:
        raise ValueError(
            f"its header promises {values} values, and it holds {'more' if len(data) > values else len(data)}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
