"""Size of a PNG, JPEG or WebP from its first bytes, so that nothing too large is ever decoded.

Formats: PNG (W3C PNG 3, section 11.2.1), JPEG (ITU T.81, B.2.2), WebP (RFC 9649).
"""

import struct
from dataclasses import dataclass
from typing import Literal

from fasten_model.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """What the header of an image says of it."""

    format: Literal["PNG", "JPEG", "WebP"]
    width: int
    height: int
    has_alpha: bool
    """Opacity has a channel of its own; what else may make a PNG transparent is in `png_transparency`."""


def read_header(data: bytes) -> ImageHeader:
    """The header of a PNG, JPEG or WebP; `DataError` for any other format and for a header that breaks off."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise DataError(f"the image breaks off within its header ({len(data)} bytes); upload it again") from error
    if not data:
        raise DataError("the image is empty (0 bytes); upload it again")
    raise DataError(f"not a PNG, JPEG or WebP image (it starts with {data[:4].hex(' ')}); convert it to one of these")


def _png(data: bytes) -> ImageHeader:
    width, height, _, colour_type = struct.unpack(">IIBB", data[16:26])
    return ImageHeader(format="PNG", width=width, height=height, has_alpha=colour_type in (4, 6))


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF markers; C4, C8 and CC are tables and reserved."""


def _jpeg(data: bytes) -> ImageHeader:
    position = 2
    while True:
        if data[position] != 0xFF:
            raise DataError(f"the JPEG has no marker at byte {position}; upload it again")
        while data[position] == 0xFF:  # any number of fill bytes may precede a marker
            position += 1
        marker = data[position]
        position += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            continue
        if marker in (0xD9, 0xDA):
            raise DataError("the JPEG has no frame header before its pixels; upload it again")
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[position + 3 : position + 7])
            return ImageHeader(format="JPEG", width=width, height=height, has_alpha=False)
        (length,) = struct.unpack(">H", data[position : position + 2])
        position += max(length, 2)


def _webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        if data[29:30] == b"":
            raise IndexError
        return ImageHeader(format="WebP", width=width, height=height, has_alpha=bool(data[20] & 0x10))
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        alpha = bool(bits >> 28 & 1)
        return ImageHeader(format="WebP", width=(bits & 0x3FFF) + 1, height=(bits >> 14 & 0x3FFF) + 1, has_alpha=alpha)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return ImageHeader(format="WebP", width=width & 0x3FFF, height=height & 0x3FFF, has_alpha=False)
    raise DataError(f"WebP chunk {kind!r} is not an image; convert it to PNG")
