"""Image bytes to uint8 tensors. Nothing about the bytes is trusted."""

import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.io import ImageReadMode  # type: ignore[import-untyped]
from torchvision.io import decode_image as decode

from fasten_model.errors import DataError
from fasten_model.images.ahead import work_ahead
from fasten_model.images.effort import check_effort
from fasten_model.images.header import read_header
from fasten_model.images.png_transparency import lay_palette_on_white, whiten_colour_key

MAX_PIXELS = 50_000_000
"""Largest image that is decoded, width × height: about 150 MB while it is being resized."""

DECODER = 2
"""Counted up whenever the same bytes give other pixels: what was decoded before is then decoded again."""
_GROUP = 16
_GROUP_BYTES = 2**20
"""What one thread decodes at a time: one small image alone costs as much to hand over as to decode."""


def decode_images(
    images: Iterable[bytes], size: int, *, max_pixels: int = MAX_PIXELS, threads: int | None = None
) -> Iterator[Tensor | DataError]:
    """`decode_image` of each, in order; where it raises `DataError`, that error in its place.

    Decoded by `threads` (unless told, as many as there are cores, 16 at most): the decoders leave Python's lock alone.
    Memory holds what the threads are at and a group of images more for each, however many images there are.
    """

    def decode_group(group: list[bytes]) -> list[Tensor | DataError]:
        return [_image_or_error(data, size, max_pixels) for data in group]

    threads = threads or min(16, len(os.sched_getaffinity(0)))
    if threads == 1:
        decoded: Iterator[list[Tensor | DataError]] = map(decode_group, _groups(images))
    else:
        decoded = work_ahead(decode_group, _groups(images), threads=threads, depth=2 * threads)
    for group in decoded:
        yield from group


def _groups(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for image in images:
        group.append(image)
        size += len(image)
        if len(group) >= _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _image_or_error(data: bytes, size: int, max_pixels: int) -> Tensor | DataError:
    try:
        return decode_image(data, size, max_pixels=max_pixels)
    except DataError as error:
        return error


def decode_image(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """PNG, JPEG or WebP bytes → uint8 RGB [3,size,size].

    EXIF orientation is applied, transparency lies on white (as the reviewer's screen shows it), the longer side is
    resized to `size` with antialiasing, and the shorter one is filled with the image's own edge: a centre crop could
    cut off what the annotators saw. An animated image is refused. `DataError` says what is wrong with the bytes; an
    image of more than `max_pixels`, or with more work in it than pixels make (`effort`), is refused undecoded.
    """
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise DataError(
            f"the image has {header.width} × {header.height} pixels, over the limit of {max_pixels}; make it smaller"
        )
    check_effort(data)
    mode = ImageReadMode.RGB_ALPHA if header.has_alpha else ImageReadMode.RGB
    encoded = bytearray(data)
    if header.format == "PNG":
        lay_palette_on_white(encoded)
    try:
        buffer = torch.frombuffer(encoded, dtype=torch.uint8)
        image = decode(buffer, mode=mode, apply_exif_orientation=True)  # [3 or 4, H, W], uint8 or uint16
    except RuntimeError as error:
        if "allocate memory" in str(error):  # no fault of the image
            raise MemoryError(f"no memory for an image of {header.width} × {header.height} pixels") from error
        raise DataError(f"the {header.format} does not decode; upload it again") from error
    if image.shape[1] * image.shape[2] != header.width * header.height:
        raise DataError(f"the {header.format} is not of the size that its header says; upload it again")
    if header.format == "PNG":
        whiten_colour_key(image, data)
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
    same = target == (height, width)
    resized = image if same else functional.interpolate(image[None], size=target, mode="bilinear", antialias=True)[0]
    if target == (size, size):
        return resized
    down, across = size - target[0], size - target[1]
    rows = torch.arange(-(down // 2), size - down // 2).clamp(0, target[0] - 1)
    columns = torch.arange(-(across // 2), size - across // 2).clamp(0, target[1] - 1)
    return resized.index_select(1, rows).index_select(2, columns)
