"""Heat maps of K×K matrices as PNG bytes, readable up to some fifty classes and a coarse overview above."""

import io
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

NUMBERS_UP_TO = 20
"""Classes up to which every cell carries its number."""
NAMES_UP_TO = 50
"""Classes up to which the axes carry names; above, class indices."""
COARSE_ABOVE = 400
"""Classes above which neighbouring cells share a block: a screen shows no more."""
NAME_LENGTH = 16
_DPI = 110


def heat_map(
    shares: NDArray[np.float64],
    classes: Sequence[str],
    *,
    title: str,
    row_axis: str,
    column_axis: str,
    cell_texts: Sequence[Sequence[str]] | None = None,
) -> bytes:
    """PNG of a matrix of shares.

    Args:
        shares: `[K,K]`, 0–1; a row of NaN is drawn grey ("no sample of this class").
        classes: K class names, in the order of the rows; any text, shown literally.
        title: one line above the map.
        row_axis: what a row stands for.
        column_axis: what a column stands for.
        cell_texts: `[K][K]` texts for the cells, drawn where K is small; the share itself where None.
    """
    size = len(classes)
    side = min(4.6 + 0.42 * min(size, NUMBERS_UP_TO), 13.0) if size <= NUMBERS_UP_TO else 10.5
    figure = Figure(figsize=(side + 1.0, side), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: its global state is not safe in a worker's threads
    axes = figure.add_subplot()
    # The off-diagonal shares are what matters and they are small: the square root lifts them off the ground.
    block = -(-size // COARSE_ABOVE)
    cells = _coarse(shares, block)
    edge = len(cells) * block - 0.5
    image = axes.imshow(
        cells,
        cmap=colormaps["Blues"].with_extremes(bad="0.85"),
        norm=PowerNorm(gamma=0.5, vmin=0.0, vmax=1.0),
        extent=(-0.5, edge, edge, -0.5),
        interpolation="nearest",
        aspect="equal",
    )
    axes.set_title(title, parse_math=False, fontsize=11)
    axes.set_ylabel(row_axis, parse_math=False)
    axes.set_xlabel(column_axis, parse_math=False)
    _label_axes(axes, classes)
    if size <= NUMBERS_UP_TO:
        _write_cells(axes, shares, cell_texts)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row", ticks=[0, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def display_name(name: str, index: int) -> str:
    """A class name as an axis can show it: one line, at most 16 characters; its index where the font lacks a letter."""
    text = " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in name).split())
    if not text or any(ord(c) not in _drawable() for c in text):
        return f"class {index}"
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"


@cache
def _drawable() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _label_axes(axes: Axes, classes: Sequence[str]) -> None:
    size = len(classes)
    if size > NAMES_UP_TO:
        axes.set_ylabel(f"{axes.get_ylabel()} (class index)")
        axes.set_xlabel(f"{axes.get_xlabel()} (class index)")
        return
    names = [display_name(name, index) for index, name in enumerate(classes)]
    fontsize = 9 if size <= NUMBERS_UP_TO else 7
    upright = max(map(len, names)) <= 3
    axes.set_yticks(range(size), names, fontsize=fontsize, parse_math=False)
    axes.set_xticks(range(size), names, fontsize=fontsize, rotation=0 if upright else 90, parse_math=False)


def _write_cells(axes: Axes, shares: NDArray[np.float64], cell_texts: Sequence[Sequence[str]] | None) -> None:
    for row, column in np.ndindex(shares.shape):
        share = float(shares[row, column])
        text = f"{share:.2f}" if cell_texts is None else cell_texts[row][column]
        if np.isnan(share) or text in ("0", "0.00"):  # empty cells stay empty: the eye finds the others
            continue
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.3 else "black")


def _coarse(shares: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """`block`×`block` neighbours as one cell by their largest share; NaN only where all of them are."""
    if block == 1:
        return shares
    size = len(shares)
    side = -(-size // block)
    padded = np.full((side * block, side * block), -np.inf)
    padded[:size, :size] = np.where(np.isnan(shares), -np.inf, shares)
    largest: NDArray[np.float64] = padded.reshape(side, block, side, block).max(axis=(1, 3))
    return np.where(np.isneginf(largest), np.nan, largest)
