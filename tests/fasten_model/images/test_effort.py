"""A small JPEG or PNG that would keep a decoder busy for minutes or days is refused before it is decoded."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fasten_model.errors import DataError
from fasten_model.images.decode import decode_image
from fasten_model.images.effort import MOST_CHUNKS, MOST_SCANS, MOST_SEGMENTS, check_effort, check_scans
from tests.fasten_model.images.heavy_images import many_chunks, many_scans, many_segments, progressive

TOO_MANY_CHUNKS = MOST_CHUNKS + 150
"""Of twelve bytes each, which are a hundred and twenty thousand in all."""


@pytest.mark.parametrize(
    "data",
    [many_scans(MOST_SCANS + 1), many_segments(MOST_SEGMENTS), many_chunks(TOO_MANY_CHUNKS)],
    ids=["scans", "segments", "chunks"],
)
def test_more_than_a_picture_needs_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"more than .* (scans|segments|chunks); save it anew"):
        decode_image(data, 8)


def test_as_many_scans_as_encoders_write_pass() -> None:
    for data in (progressive(), many_scans(MOST_SCANS), many_segments(MOST_SEGMENTS - 100)):
        assert decode_image(data, 8).shape == (3, 8, 8)


def test_a_large_png_may_have_a_chunk_for_each_thousand_bytes() -> None:
    data = many_chunks(TOO_MANY_CHUNKS)
    at = data.index(b"IDAT") - 4
    text = b"x" * 60_000
    check_effort(data[:at] + struct.pack(">I", len(text)) + b"tEXt" + text + bytes(4) + data[at:])


def test_what_lies_between_segments_hides_no_scan() -> None:
    data = many_scans(MOST_SCANS + 1)
    at = data.index(b"\xff\xda")
    for between in (b"\0" * 9, b"\xff" * 9, b"\xff\x01", b"no marker"):
        with pytest.raises(DataError, match="scans"):
            check_scans(data[:at] + between + data[at:])


def test_a_picture_within_a_segment_counts_for_nothing() -> None:
    thumbnail = many_scans(MOST_SCANS + 1)
    data = progressive()
    check_scans(data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:])


def test_restart_markers_are_no_segments() -> None:
    file = io.BytesIO()
    Image.effect_noise((1000, 1000), 50).save(file, "JPEG", restart_marker_blocks=1)
    assert file.getvalue().count(b"\xff\xd3") > MOST_SEGMENTS / 10
    check_scans(file.getvalue())


@given(st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=200))
def test_no_bytes_raise_anything_else(head: bytes, tail: bytes) -> None:
    check_effort(head + tail)
