"""Decoding of image bytes that nobody vouches for. Pillow writes the images; it is not what reads them."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fasten_model.errors import DataError
from fasten_model.images import decode as decode_module
from fasten_model.images.decode import decode_image, decode_images
from fasten_model.images.header import read_header

RED, WHITE = (200, 30, 40), (255, 255, 255)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(mode: str = "RGB", size: tuple[int, int] = (12, 12), colour: Any = RED) -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encode(plain()), 0),
        (encode(plain("P")), 30),
        (encode(plain("RGBA")), 1),
        (encode(plain(), "JPEG"), 4),
        (encode(plain("CMYK"), "JPEG"), 8),
        (encode(plain(), "JPEG", progressive=True), 4),
        (encode(plain(), "WEBP"), 6),
        (encode(plain(), "WEBP", lossless=True), 0),
        (encode(plain("RGBA"), "WEBP", lossless=True), 1),
    ],
    ids=[
        "png",
        "png-palette",
        "png-rgba",
        "jpeg",
        "jpeg-cmyk",
        "jpeg-progressive",
        "webp",
        "webp-lossless",
        "webp-alpha",
    ],
)
def test_every_usual_format_becomes_the_same_rgb(data: bytes, tolerance: int) -> None:
    image = decode_image(data, 8)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 8, 8))
    expected = torch.tensor(RED)[:, None, None].expand(3, 8, 8)
    assert (image.int() - expected).abs().max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    white = Image.fromarray(np.full((5, 5), 65535, dtype=np.uint16)) if mode == "I;16" else plain(mode, (5, 5), WHITE)
    assert (decode_image(encode(white), 4) == 255).all()


def test_transparency_lies_on_white() -> None:
    clear_black = Image.new("RGBA", (6, 6), (0, 0, 0, 0))
    half_black = Image.new("RGBA", (6, 6), (0, 0, 0, 128))
    assert (decode_image(encode(clear_black), 6) == 255).all()
    assert (decode_image(encode(half_black), 6) == 127).all()


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 16), WHITE)
    image.paste(RED, (0, 0, 16, 8))  # red on top
    exif = Image.Exif()
    exif[0x0112] = 3  # shown upside down
    decoded = decode_image(encode(image, "JPEG", exif=exif, quality=95), 16)
    assert decoded[1, 2].float().mean() > 200
    assert decoded[1, 13].float().mean() < 100


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (500, 1), (7, 7), (1, 1)])
def test_any_shape_becomes_a_square_filled_with_its_own_edge(size: tuple[int, int]) -> None:
    decoded = decode_image(encode(plain(size=size)), 16)
    assert torch.equal(decoded, torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 16, 16))


def test_aspect_is_kept_and_nothing_is_cut_off() -> None:
    image = Image.new("RGB", (32, 16), WHITE)
    image.paste((0, 0, 0), (0, 0, 4, 16))  # a bar at the far left, which a centre crop would lose
    decoded = decode_image(encode(image), 16)
    assert (decoded[:, :, :2] < 40).all()
    assert (decoded[:, :, 4:] == 255).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    decoded = decode_image(encode(Image.fromarray(stripes)), 8).float()
    assert (decoded - 127.5).abs().max() < 10


def bomb(width: int, height: int) -> bytes:
    """A few bytes of PNG that claim width × height pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(DataError, match="60000 × 60000 pixels"):
        decode_image(bomb(60_000, 60_000), 8)
    with pytest.raises(DataError, match="12 × 12 pixels, over the limit of 100"):
        decode_image(encode(plain()), 8, max_pixels=100)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"<html>not found</html>", "not a PNG, JPEG or WebP"),
        (encode(plain(), "GIF"), "convert it"),
        (encode(plain(), "BMP"), "convert it"),
        (encode(plain())[:20], "breaks off"),
        (encode(plain())[:60], "does not decode"),
        (encode(plain(), "JPEG")[:100], "breaks off"),
        (encode(plain(), "JPEG")[:-100], "does not decode"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (b"\xff\xd8\xff", "breaks off"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8X", "breaks off"),
        (b"RIFF\x10\x00\x00\x00WEBPXXXX0000", "not an image"),
        (bomb(10, 10), "does not decode"),
    ],
    ids=[
        "empty",
        "html",
        "gif",
        "bmp",
        "header",
        "body",
        "jpeg-header",
        "jpeg-body",
        "eoi",
        "marker",
        "vp8x",
        "webp-kind",
        "no-pixels",
    ],
)
def test_bad_bytes_are_one_line_of_data_error(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decode_image(data, 8)
    assert "\n" not in str(caught.value)


def test_an_animation_is_not_decoded() -> None:
    frames = [plain(colour=RED), plain(colour=WHITE)]
    with pytest.raises(DataError):
        decode_image(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]), 8)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_many_images_come_in_order_each_as_it_is_decoded_alone(threads: int | None) -> None:
    images = [encode(plain(colour=(number, 0, 0))) for number in range(100)]
    images[70] = b"no image"
    decoded = list(decode_images(images, 4, threads=threads))
    assert "not a PNG, JPEG or WebP" in str(decoded.pop(70))
    assert [int(image[0, 0, 0]) for image in decoded if isinstance(image, torch.Tensor)] == [
        *range(70),
        *range(71, 100),
    ]


def test_images_are_drawn_no_further_ahead_than_the_threads_need() -> None:
    drawn = []

    def source() -> Iterator[bytes]:
        for number in range(1000):
            drawn.append(number)
            yield encode(plain())

    decoded = decode_images(source(), 4, threads=2)
    next(decoded)
    assert len(drawn) < 100
    assert len(list(decoded)) == 999


def test_too_little_memory_is_not_blamed_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(decode_module, "decode", full)
    with pytest.raises(MemoryError, match="12 × 12 pixels"):
        decode_image(encode(plain()), 8)


def test_an_image_of_the_wanted_size_is_passed_through_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert torch.equal(decode_image(encode(Image.fromarray(pixels)), 8), torch.from_numpy(pixels).permute(2, 0, 1))


def test_a_narrow_image_is_filled_with_its_own_edges() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    filled = decode_image(encode(Image.fromarray(pixels)), 8)
    assert torch.equal(filled[:, :, 2:5], image)
    assert torch.equal(filled[:, :, :2], image[:, :, :1].expand(3, 8, 2))
    assert torch.equal(filled[:, :, 5:], image[:, :, 2:].expand(3, 8, 3))


SOUND = [
    encode(plain()),
    encode(plain("P")),
    encode(plain("P"), transparency=b"\x00\x80"),
    encode(plain(), transparency=RED),
    encode(plain("L"), transparency=0),
    encode(plain(), "JPEG"),
    encode(plain(), "WEBP"),
]


@given(st.sampled_from(SOUND), st.data())
def test_damaged_bytes_never_raise_anything_but_data_error(sound: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sound[: data.draw(st.integers(1, len(sound)))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        assert decode_image(bytes(damaged), 8, max_pixels=10_000).shape == (3, 8, 8)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})])
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_the_header_says_what_pillow_wrote(kind: str, options: dict[str, Any], width: int, height: int) -> None:
    header = read_header(encode(plain(size=(width, height)), kind, **options))
    assert (header.width, header.height, header.has_alpha) == (width, height, False)
