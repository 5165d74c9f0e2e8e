"""N images that need not be in memory: what training and scoring take wherever they take a tensor of images."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fasten_model.errors import DataError


@runtime_checkable
class Images(Protocol):
    """N images of side S, read as they are asked for. `len`, `shape`, `dtype` and `nbytes` are as a tensor's."""

    def __len__(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype:
        """uint8."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, S, S)."""
        ...

    @property
    def nbytes(self) -> int:
        """What all of them would take in memory."""
        ...

    def take(self, index: Tensor) -> Tensor:
        """The images at `index` (CPU, int64 [B]): uint8 [B,3,S,S] on the CPU. Any thread may call it."""
        ...

    def __getitem__(self, chosen: slice | Tensor) -> "Images":
        """Some of the images (a slice, an index int64 [B], a mask bool [N]) as a set of its own; none is read."""
        ...


def check_images(images: Tensor | Images, side: int | None = None) -> None:
    """Raise `DataError` unless these are images as everything here takes them, uint8 [N,3,S,S], S being `side`.

    Floats from 0 to 1, say, would be taken for almost black.
    """
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise DataError(f"images must be uint8 [N,3,S,S], got {images.dtype} {list(shape)}".replace("torch.", ""))
    if side is not None and shape[2] != side:
        raise DataError(f"images must be {side}×{side}, as the model was trained, got {shape[2]}×{shape[3]}")


class TableImages:
    """Some rows of a table of images, say of a memory-mapped file; the same row may occur more than once."""

    def __init__(self, table: Tensor, rows: Tensor | None = None) -> None:
        """`table`: uint8 [M,3,S,S] on the CPU; `rows`: int64 [N], each below M (None: all of them, in order)."""
        self._table = table
        self._rows = torch.arange(len(table)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dtype(self) -> torch.dtype:
        return self._table.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._table.shape[1:])

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    def take(self, index: Tensor) -> Tensor:
        return self._table.index_select(0, self._rows[index])

    def __getitem__(self, chosen: slice | Tensor) -> "TableImages":
        return TableImages(self._table, self._rows[chosen])


def as_images(images: "Tensor | Images") -> Images:
    """A tensor, uint8 [N,3,S,S], as `Images`; what is that already, as it is."""
    return TableImages(images.cpu()) if isinstance(images, Tensor) else images


def in_memory(images: "Tensor | Images") -> Tensor:
    """All of them as one tensor, uint8 [N,3,S,S]: where they are known to be few."""
    return images if isinstance(images, Tensor) else images.take(torch.arange(len(images)))
