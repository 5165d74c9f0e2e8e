"""Transparency of a PNG without an alpha channel: its tRNS chunk, which torchvision does not lay on anything.

Formats: W3C PNG 3, sections 11.2.2 (PLTE) and 11.3.1.1 (tRNS). A tRNS chunk of wrong length or checksum, or out of its
place, counts for nothing: libpng leaves it out, and so does the browser that shows the image to a reviewer.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from torch import Tensor

_PALETTE = 3
_KEY_BYTES = {0: 2, 2: 6}
"""Colour type → bytes of its tRNS chunk, 16 bits a channel: grey, and red, green and blue."""


def lay_palette_on_white(png: bytearray) -> None:
    """Mix white into each palette entry, as the tRNS chunk says, in place: the image then decodes as it is to look.

    Torchvision does make an alpha channel of tRNS where it is asked for one, but returns memory that nobody has
    written where libpng has left the chunk out.
    """
    depth, colour_type = png[24:26]
    if colour_type != _PALETTE:
        return
    palette: tuple[int, int] | None = None
    for kind, start, end in _chunks(png):
        if kind == b"PLTE" and palette is None:
            palette = start, end
        elif kind == b"tRNS" and palette and 0 < end - start <= min((palette[1] - palette[0]) // 3, 2**depth):
            break
    else:
        return
    first, last = palette
    for entry, opacity in enumerate(png[start:end]):
        for place in range(first + 3 * entry, first + 3 * entry + 3):
            png[place] = 255 - round((255 - png[place]) * opacity / 255)
    png[last : last + 4] = struct.pack(">I", zlib.crc32(png[first - 4 : last]))


def whiten_colour_key(image: Tensor, png: bytes) -> None:
    """Make the one colour of a grey or RGB image that tRNS calls transparent white, in place.

    image: [3,H,W], uint8 or uint16, as `png` decodes to.
    """
    depth, colour_type = png[24:26]
    size = _KEY_BYTES.get(colour_type)
    if size is None:
        return
    key = next((png[start:end] for kind, start, end in _chunks(png) if kind == b"tRNS" and end - start == size), None)
    if key is None:
        return
    most = 2**depth - 1  # bits above the image's own depth are to be left out
    values = [value & most for value in struct.unpack(f">{size // 2}H", key)]
    if depth < 8:
        values = [value * 255 // most for value in values]  # as the pixels have been spread over 0 … 255
    pixels = image.numpy()  # torch cannot compare uint16
    clear = np.ones(pixels.shape[1:], dtype=bool)
    for channel, value in zip(pixels, values if len(values) == 3 else values * 3, strict=True):
        clear &= channel == value
    np.copyto(pixels, np.iinfo(pixels.dtype).max, where=clear)


def _chunks(png: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the data of each sound PLTE and tRNS chunk before the pixels."""
    position = 8
    while position + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == b"IDAT":
            return
        start, end = position + 8, position + 8 + length
        if kind in (b"PLTE", b"tRNS") and png[end : end + 4] == struct.pack(">I", zlib.crc32(png[start - 4 : end])):
            yield kind, start, end
        position = end + 4
