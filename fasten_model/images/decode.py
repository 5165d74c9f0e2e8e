"""Image bytes to uint8 tensors. Nothing about the bytes is trusted."""

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.io import ImageReadMode  # type: ignore[import-untyped]
from torchvision.io import decode_image as decode

from fasten_model.errors import DataError
from fasten_model.images.header import read_header

MAX_PIXELS = 50_000_000
"""Largest image that is decoded, width × height: about 150 MB while it is being resized."""


def decode_image(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """PNG, JPEG or WebP bytes → uint8 RGB [3,size,size].

    EXIF orientation is applied, transparency lies on white (as the reviewer's screen shows it), the longer side is
    resized to `size` with antialiasing, and the shorter one is filled with the image's own edge: a centre crop could
    cut off what the annotators saw. An animated image is refused. `DataError` says what is wrong with the bytes; an
    image of more than `max_pixels` is refused before it is decoded.
    """
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise DataError(
            f"the image has {header.width} × {header.height} pixels, over the limit of {max_pixels}; make it smaller"
        )
    mode = ImageReadMode.RGB_ALPHA if header.has_alpha else ImageReadMode.RGB
    try:
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = decode(buffer, mode=mode, apply_exif_orientation=True)  # [3 or 4, H, W], uint8 or uint16
    except RuntimeError as error:
        raise DataError(f"the {header.format} does not decode; upload it again") from error
    if image.shape[1] * image.shape[2] != header.width * header.height:
        raise DataError(f"the {header.format} is not of the size that its header says; upload it again")
    return _fit_square(_on_white(image), size)


def _on_white(image: Tensor) -> Tensor:
    """uint8 or uint16 [3 or 4,H,W] → uint8 [3,H,W]; the fourth channel is opacity."""
    if image.dtype == torch.uint16:
        image = (image.float() / 257).round().to(torch.uint8)
    if image.shape[0] == 3:
        return image
    colour, opacity = image[:3].float(), image[3:].float() / 255
    return (colour * opacity + 255 * (1 - opacity)).round().to(torch.uint8)


def _fit_square(image: Tensor, size: int) -> Tensor:
    """uint8 [3,H,W] → uint8 [3,size,size], aspect kept, the missing sides filled with the nearest edge pixels."""
    height, width = image.shape[1:]
    scale = size / max(height, width)
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    resized = functional.interpolate(image[None], size=target, mode="bilinear", antialias=True)
    down, across = size - target[0], size - target[1]
    frame = [across // 2, across - across // 2, down // 2, down - down // 2]
    return functional.pad(resized.float(), frame, mode="replicate")[0].to(torch.uint8)
