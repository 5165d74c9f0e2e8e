"""Transparent PNGs without an alpha channel: what lies on white, and what a malformed tRNS chunk does (nothing)."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasten_model.errors import DataError
from fasten_model.images.decode import decode_image

GREY, RGB, PALETTE, RGB_ALPHA = 0, 2, 3, 6
WHITE = (255, 255, 255)
FOUR = bytes([0, 0, 0, 200, 30, 40, 0, 100, 250, 8, 8, 8])
"""Colours of a palette."""


def packed(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def png(colour_type: int, depth: int, rows: Sequence[bytes], *chunks: bytes, after: bytes = b"") -> bytes:
    """Square, of these packed rows; `chunks` before the pixels, `after` behind them."""
    header = struct.pack(">IIBBBBB", len(rows), len(rows), depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows))
    parts = [packed(b"IHDR", header), *chunks, packed(b"IDAT", pixels), after, packed(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pixels(data: bytes, size: int) -> list[list[Any]]:
    """[row][column] = (red, green, blue)."""
    return [[tuple(pixel) for pixel in row] for row in decode_image(data, size).permute(1, 2, 0).tolist()]


def rows(values: Sequence[Sequence[int]], depth: int) -> list[bytes]:
    """Rows of samples, packed from the high bits down."""
    bits = ["".join(f"{value:0{depth}b}" for value in row) for row in values]
    return [int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in bits]


def palette(*chunks: bytes, after: bytes = b"") -> bytes:
    """2 × 2 pixels, one of each colour in `FOUR`."""
    return png(PALETTE, 8, [b"\x00\x01", b"\x02\x03"], packed(b"PLTE", FOUR), *chunks, after=after)


AS_IT_IS = [[(0, 0, 0), (200, 30, 40)], [(0, 100, 250), (8, 8, 8)]]


def test_transparent_palette_entries_lie_on_white() -> None:
    shown = [[WHITE, (227, 142, 147)], [(0, 100, 250), (8, 8, 8)]]  # the second is half there, the rest wholly
    assert pixels(palette(packed(b"tRNS", bytes([0, 128, 255]))), 2) == shown


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_palette_of_few_bits_lies_on_white(depth: int) -> None:
    data = png(PALETTE, depth, rows([[0, 1], [0, 0]], depth), packed(b"PLTE", FOUR[:6]), packed(b"tRNS", b"\x00"))
    assert pixels(data, 2) == [[WHITE, (200, 30, 40)], [WHITE, WHITE]]


@given(st.binary(min_size=1, max_size=16), st.binary(min_size=48, max_size=48))
def test_a_palette_lies_on_white_as_the_same_colours_with_alpha_do(opacities: bytes, colours: bytes) -> None:
    places = [bytes(range(row * 4, row * 4 + 4)) for row in range(4)]
    with_trns = png(PALETTE, 8, places, packed(b"PLTE", colours), packed(b"tRNS", opacities))
    alpha = opacities.ljust(16, b"\xff")
    mixed = [b"".join(colours[3 * at : 3 * at + 3] + alpha[at : at + 1] for at in row) for row in places]
    assert torch.equal(decode_image(with_trns, 4), decode_image(png(RGB_ALPHA, 8, mixed), 4))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_becomes_white_and_no_other(depth: int) -> None:
    most = 2**depth - 1
    values = [[0, most], [most // 3, 0]]
    data = png(GREY, depth, rows(values, depth), packed(b"tRNS", struct.pack(">H", 0)))
    third = 255 * (most // 3) // most if depth > 1 else 255
    assert [[pixel[0] for pixel in row] for row in pixels(data, 2)] == [[255, 255], [third, 255]]


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_becomes_white_and_no_other(depth: int) -> None:
    scale = (2**depth - 1) // 255
    key, other, turned = (10, 20, 30), (10, 20, 31), (30, 20, 10)
    values = [[scale * value for value in first + second] for first, second in ((key, other), (turned, key))]
    chunk = packed(b"tRNS", struct.pack(">3H", *(scale * value for value in key)))
    assert pixels(png(RGB, depth, rows(values, depth), chunk), 2) == [[WHITE, other], [turned, WHITE]]


@pytest.mark.parametrize(("colour_type", "channels"), [(GREY, 1), (RGB, 3)])
def test_a_key_of_16_bits_is_compared_before_they_become_8(colour_type: int, channels: int) -> None:
    values = [[256] * channels + [257] * channels, [258] * channels + [257] * channels]
    data = png(colour_type, 16, rows(values, 16), packed(b"tRNS", struct.pack(f">{channels}H", *[257] * channels)))
    assert pixels(data, 2) == [[(1, 1, 1), WHITE], [(1, 1, 1), WHITE]]


def test_bits_of_the_key_above_the_depth_of_the_image_do_not_count() -> None:
    data = png(GREY, 8, [b"\x07"], packed(b"tRNS", b"\xab\x07"))
    assert pixels(data, 1) == [[WHITE]]


@pytest.mark.parametrize(
    "chunk",
    [
        packed(b"tRNS", b""),
        packed(b"tRNS", bytes(5)),
        packed(b"tRNS", bytes(300)),
        packed(b"tRNS", bytes(5_000_000)),
        packed(b"tRNS", bytes(4), crc=1),
    ],
    ids=["empty", "one too many", "long", "huge", "checksum"],
)
def test_a_malformed_chunk_makes_nothing_of_a_palette_transparent(chunk: bytes) -> None:
    assert pixels(palette(chunk), 2) == AS_IT_IS


def test_a_chunk_out_of_its_place_makes_nothing_transparent() -> None:
    clear = packed(b"tRNS", bytes(4))
    assert pixels(palette(after=clear), 2) == AS_IT_IS
    early = png(PALETTE, 8, [b"\x00\x01", b"\x02\x03"], clear, packed(b"PLTE", FOUR))
    assert pixels(early, 2) == AS_IT_IS
    assert pixels(png(GREY, 8, [b"\x00"], after=packed(b"tRNS", bytes(2))), 1) == [[(0, 0, 0)]]


@pytest.mark.parametrize("size", [0, 1, 3, 5, 7, 5_000_000])
@pytest.mark.parametrize(("colour_type", "row"), [(GREY, b"\x00"), (RGB, bytes(3))])
def test_a_key_of_wrong_length_makes_nothing_transparent(colour_type: int, row: bytes, size: int) -> None:
    assert pixels(png(colour_type, 8, [row], packed(b"tRNS", bytes(size))), 1) == [[(0, 0, 0)]]


def test_more_opacities_than_the_depth_has_colours_make_nothing_transparent() -> None:
    data = png(PALETTE, 1, [b"\x00"], packed(b"PLTE", FOUR), packed(b"tRNS", bytes(4)))
    assert pixels(data, 1) == [[(0, 0, 0)]]


def test_a_palette_with_a_wrong_checksum_still_does_not_decode() -> None:
    broken = png(PALETTE, 8, [b"\x00"], packed(b"PLTE", FOUR, crc=1), packed(b"tRNS", bytes(4)))
    with pytest.raises(DataError, match="does not decode"):
        decode_image(broken, 1)


@pytest.mark.parametrize("cut", [3, 8, 13])
def test_an_image_that_ends_within_the_chunk_does_not_decode(cut: int) -> None:
    data = palette(packed(b"tRNS", bytes(4)))
    with pytest.raises(DataError, match="does not decode"):
        decode_image(data[: data.index(b"tRNS") + cut], 2)
