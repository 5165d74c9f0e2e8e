"""Images are bounded before they are decoded, and nothing but a whole image passes."""

import hashlib
import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fasten_model.images.effort import MOST_CHUNKS, MOST_SCANS, MOST_SEGMENTS
from pipeline.errors import ConfigError
from pipeline.images.check import ImageConfig, ImageError, verify_image
from tests.fasten_model.images.heavy_images import many_chunks, many_scans, many_segments

CONFIG = ImageConfig()


def picture(kind: str = "PNG", size: tuple[int, int] = (4, 3), mode: str = "RGB") -> bytes:
    file = BytesIO()
    Image.new(mode, size, 7).save(file, kind)
    return file.getvalue()


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A small PNG whose header promises more pixels than anyone could hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_whole_image_is_described(kind: str) -> None:
    data = picture(kind)
    image = verify_image(data, CONFIG)
    assert (image.width, image.height, image.format) == (4, 3, kind)
    assert image.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_of_png_passes(mode: str) -> None:
    assert verify_image(picture(mode=mode), CONFIG).width == 4


def test_formats_that_nothing_downstream_decodes_are_refused() -> None:
    for kind in ("BMP", "TIFF", "PPM"):
        with pytest.raises(ImageError, match="not PNG, JPEG or WebP"):
            verify_image(picture(kind), CONFIG)
    with pytest.raises(ImageError, match="does not decode"):
        verify_image(b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", CONFIG)


def test_truncated_images_do_not_decode() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        data = picture(kind, (64, 64))
        with pytest.raises(ImageError) as caught:
            verify_image(data[: len(data) * 2 // 3], CONFIG)
        assert caught.value.reason == "image does not decode"


@pytest.mark.parametrize("size", [(7_000, 7_000), (12_000, 12_000), (60_000, 60_000), (2_000_000_000, 2)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError) as caught:
        verify_image(png_of_claimed_size(*size), CONFIG)
    assert caught.value.reason == "image has too many pixels"


@pytest.mark.parametrize(
    "data",
    [many_scans(MOST_SCANS + 1), many_segments(MOST_SEGMENTS), many_chunks(2 * MOST_CHUNKS)],
    ids=["scans", "segments", "chunks"],
)
def test_an_image_that_is_work_for_days_is_refused_before_it_is_decoded(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        verify_image(data, CONFIG)
    assert caught.value.reason == "image takes too long to decode"


def test_of_a_jpeg_with_several_pictures_the_first_is_the_image() -> None:
    file = BytesIO()
    Image.new("RGB", (4, 3)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (2, 1))])
    image = verify_image(file.getvalue(), CONFIG)
    assert (image.width, image.height, image.format) == (4, 3, "JPEG")
    assert image.data == file.getvalue()


def test_a_large_image_within_the_limit_passes() -> None:
    assert verify_image(picture(size=(2_500, 2_000), mode="1"), CONFIG).width == 2_500


def test_bytes_are_bounded() -> None:
    with pytest.raises(ImageError, match="too many bytes"):
        verify_image(picture(), ImageConfig(max_bytes=10))
    with pytest.raises(ImageError, match="empty"):
        verify_image(b"", CONFIG)


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_hostile_bytes_raise_nothing_but_image_errors(noise: bytes, kind: str, data: st.DataObject) -> None:
    start = picture(kind)
    cut = data.draw(st.integers(0, len(start)))
    try:
        verify_image(start[:cut] + noise, CONFIG)
    except ImageError as error:
        if "\n" in str(error):
            raise AssertionError("a message must be one line") from error


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 0},
        {"concurrency": 0},
        {"retries": -1},
        {"max_pixels": 10**9},
        {"allowed_hosts": ("https://cdn.example",)},
        {"allowed_hosts": ("*",)},
    ],
)
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ImageConfig(**wrong)  # type: ignore[arg-type]
