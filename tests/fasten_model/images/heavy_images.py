"""JPEGs and PNGs that ask more of a decoder than their pixels do."""

import io
import struct
import zlib

from PIL import Image

_EMPTY_SEGMENT = b"\xff\xef\x00\x02"


def progressive(side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    return file.getvalue()


def many_scans(scans: int) -> bytes:
    """A picture whose last scan comes again and again, so often that there are `scans` of them."""
    data = progressive()
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    (length,) = struct.unpack(">H", data[starts[-1] + 2 : starts[-1] + 4])
    assert length == 8, "one component"
    end = len(data) - 2  # the end of the image
    return data[:end] + data[starts[-1] : end] * (scans - len(starts)) + data[end:]


def many_segments(segments: int) -> bytes:
    data = progressive()
    return data[:2] + _EMPTY_SEGMENT * segments + data[2:]


def many_chunks(chunks: int) -> bytes:
    """A PNG with so many chunks in all, IEND left out: all but two say, wrongly, what is transparent."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), 128).save(file, "PNG")
    data = file.getvalue()
    at = data.index(b"IDAT") - 4
    empty = b"\0\0\0\0tRNS" + struct.pack(">I", zlib.crc32(b"tRNS"))
    return data[:at] + empty * (chunks - 2) + data[at:]
