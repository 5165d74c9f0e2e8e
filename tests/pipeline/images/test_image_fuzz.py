"""Thousands of images, broken in every way: each is taken whole or refused with `ImageError`, and costs little."""

import io
import random
import resource
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from PIL import Image

from pipeline.images import ImageConfig
from pipeline.images.check import FORMATS, ImageError, verify_image

SEED = 20260301
INPUTS = 3_000
"""Of each format."""
CONFIG = ImageConfig(max_bytes=100_000, max_pixels=250_000)
MOST_MEMORY = 24 * 2**20
"""An image of as many pixels as are allowed, twice, and what Pillow needs besides."""
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def sound(form: str) -> list[bytes]:
    """Small pictures of every mode that the format has."""
    made = []
    for number, mode in enumerate(("L", "RGB", "RGBA", "P", "1", "CMYK")):
        buffer = io.BytesIO()
        picture = Image.effect_noise((24 + number, 17), 80).convert(mode)
        try:
            picture.save(buffer, form, **({"progressive": number % 2 == 0} if form == "JPEG" else {}))
        except OSError:  # a mode that this format does not have
            continue
        made.append(buffer.getvalue())
    return made


def broken(form: str, seed: int) -> Iterator[bytes]:
    """Changed, cut, doubled and crossed pictures, without end."""
    chance, pictures = random.Random(seed), sound(form)
    while True:
        data = bytearray(chance.choice(pictures))
        for _ in range(chance.randint(1, 4)):
            at, length = chance.randrange(len(data)), chance.randint(1, 24)
            match chance.randrange(7):
                case 0:
                    data[at] ^= 1 << chance.randrange(8)
                case 1:
                    data[at] = chance.choice(_INTERESTING)
                case 2:
                    data[at : at + 4] = chance.randbytes(4)
                case 3:
                    data[at : at + length] = b""
                case 4:
                    data[at:at] = data[at : at + length]
                case 5:
                    other = chance.choice(pictures)
                    data[at:] = other[chance.randrange(len(other)) :]
                case 6:
                    data = data[: max(1, at)]
            data = data or bytearray(b"\0")
        yield bytes(data)


@pytest.mark.parametrize("form", FORMATS)
def test_a_broken_image_is_taken_or_refused_and_nothing_else(form: str) -> None:
    outcomes = Counter[str]()
    for data in islice(broken(form, SEED), INPUTS):
        try:
            image = verify_image(data, CONFIG)
        except ImageError as error:
            outcomes[error.reason if "\n" not in str(error) else "in several lines"] += 1
        else:
            outcomes["taken"] += 1
            assert image.width * image.height <= CONFIG.max_pixels
            assert image.format in FORMATS
    assert outcomes.total() == INPUTS
    assert "in several lines" not in outcomes
    assert outcomes["taken"] > INPUTS / 50, outcomes
    assert outcomes["image does not decode"] > INPUTS / 50, outcomes


@pytest.mark.parametrize("form", FORMATS)
def test_broken_images_need_no_more_memory_than_sound_ones(form: str) -> None:
    def look(count: int) -> None:
        for data in islice(broken(form, SEED + 1), count):
            try:
                verify_image(data, CONFIG)
            except ImageError:
                continue

    look(50)  # what Pillow loads once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        look(300)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # of Pillow's own memory, too
    assert peak < MOST_MEMORY
    assert grown < 2 * MOST_MEMORY
