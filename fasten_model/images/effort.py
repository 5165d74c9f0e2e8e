"""What a JPEG or a PNG asks of a decoder besides its pixels, counted before any of it is decoded.

A decoder goes over all pixels of a JPEG once for every scan, and a scan that changes none of them takes fourteen bytes:
within the limits on bytes and pixels, one file could keep it busy for days. So could segments of four bytes each, or
chunks of twelve, for minutes, where a decoder keeps them or has a line to say of each.
Formats: ITU T.81, B.1 and B.2; W3C PNG 3, section 5.3.
"""

import re
import struct

from fasten_model.errors import DataError

MOST_SCANS = 100
"""Encoders write one scan, a progressive JPEG has about ten; with this many, each of the largest size takes seconds."""
MOST_SEGMENTS = 10_000
"""Of 64 kB each: a profile or a comment larger than any image that is taken."""
MOST_CHUNKS = 10_000
"""Of a PNG, and another for each thousand bytes of it: encoders write eight thousand bytes of pixels a chunk."""
# Neither a stuffed byte nor a restart marker: those are within a scan. Any number of fill bytes may precede a marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_ALONE, _END, _SCAN = (0x01, 0xD8), 0xD9, 0xDA


_PNG = b"\x89PNG\r\n\x1a\n"


def check_effort(image: bytes) -> None:
    """Raise `DataError` where a JPEG or PNG asks for more than a picture needs; what breaks off passes."""
    if image.startswith(b"\xff\xd8"):
        check_scans(image)
    elif image.startswith(_PNG):
        check_chunks(image)


def check_chunks(png: bytes) -> None:
    """Raise `DataError` where the PNG has more chunks than a picture needs; what breaks off passes."""
    most = MOST_CHUNKS + len(png) // 1000
    position = len(_PNG)
    for _ in range(most):
        if position + 8 > len(png):
            return
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == b"IEND":
            return
        position += 12 + length
    raise DataError(f"the PNG has more than {most:,} chunks; save it anew")


def check_scans(jpeg: bytes) -> None:
    """Raise `DataError` where the JPEG has more scans or segments than a picture needs; what breaks off passes.

    Read as libjpeg reads it, which skips whatever is between two segments.
    """
    scans, position = 0, 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(jpeg, position)
        if found is None:
            return
        marker, position = found[1][0], found.end()
        if marker == _END:
            return
        if marker in _ALONE:
            continue
        scans += marker == _SCAN
        if scans > MOST_SCANS:
            raise DataError(f"the JPEG has more than {MOST_SCANS} scans; save it anew")
        position += max(int.from_bytes(jpeg[position : position + 2], "big"), 2)
    raise DataError(f"the JPEG has more than {MOST_SEGMENTS:,} segments; save it anew")
