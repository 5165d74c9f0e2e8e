"""Heat maps: valid, readable, and safe with any class name."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.tracking.figures import COARSE_ABOVE, NAME_LENGTH, NAMES_UP_TO, _coarse, display_name, heat_map


def draw(size: int, classes: list[str] | None = None) -> Image.Image:
    shares = np.random.default_rng(size).dirichlet(np.ones(size), size)
    names = classes or [f"class name {index}" for index in range(size)]
    png = heat_map(shares, names, title="T", row_axis="true class", column_axis="given label")
    return Image.open(io.BytesIO(png))


@pytest.mark.parametrize("size", [1, 2, 21, NAMES_UP_TO + 1, 1000])
def test_any_number_of_classes_gives_a_bounded_png(size: int) -> None:
    image = draw(size)
    assert image.format == "PNG"
    assert 300 < image.width < 1600
    assert 300 < image.height < 1600


def test_hostile_class_names_are_drawn_literally() -> None:
    # Mathematics that does not parse, markup, control and direction characters, and letters the font lacks.
    draw(6, ["${\\bad", "<script>alert(1)</script>", "a\nb\x00", "\u202eevil", "猫", "x" * 10_000])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("  two\n words\t", "two words"),
        ("$x$", "$x$"),
        ("été", "été"),
        ("猫", "class 3"),
        ("", "class 3"),
        ("\u202e\u200b", "class 3"),
    ],
)
def test_names_are_shown_on_one_line_or_by_index(name: str, shown: str) -> None:
    assert display_name(name, 3) == shown


def test_long_names_are_cut() -> None:
    assert display_name("x" * 100, 0) == "x" * (NAME_LENGTH - 1) + "…"


def test_a_class_without_samples_is_grey_and_the_others_are_not() -> None:
    shares = np.eye(2)
    shares[1] = np.nan
    png = heat_map(shares, ["a", "b"], title="T", row_axis="r", column_axis="c")
    colours = {colour for _, colour in Image.open(io.BytesIO(png)).convert("RGB").getcolors(1 << 16) or []}
    assert (217, 217, 217) in colours


def test_coarse_blocks_keep_the_largest_share_and_forget_a_part_that_is_missing() -> None:
    shares = np.zeros((5, 5))
    shares[1, 2] = 0.4
    shares[4, 4] = 0.9
    shares[2:4, 0:2] = np.nan
    coarse = _coarse(shares, 2)
    np.testing.assert_array_equal(coarse, [[0.0, 0.4, 0.0], [np.nan, 0.0, 0.0], [0.0, 0.0, 0.9]])
    assert _coarse(shares, 1) is shares
    assert COARSE_ABOVE >= NAMES_UP_TO
