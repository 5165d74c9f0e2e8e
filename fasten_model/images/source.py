"""N images that need not be in memory: what training and scoring take wherever they take a tensor of images."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fasten_model.checks import check_tensor, shown
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


def check_images(images: Tensor | Images, side: int | None = None, *, name: str = "images") -> None:
    """Raise `DataError` unless these are images as everything here takes them, uint8 [N,3,S,S], S being `side`.

    Floats from 0 to 1, say, would be taken for almost black.
    """
    check_tensor(name, images)
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise DataError(f"{name} must be uint8 [N,3,S,S], got {shown(images)}{_way_out(images.dtype, shape)}")
    if side is not None and shape[2] != side:
        raise DataError(f"{name} must be {side}×{side}, as the model was trained, got {shape[2]}×{shape[3]}")


def _way_out(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    """How to make images of what was given, one thing at a time; nothing where that cannot be guessed."""
    if dtype.is_floating_point:
        return "; of floats from 0 to 1: (255 * x).round().byte()"
    if dtype != torch.uint8:
        return "; of values from 0 to 255: x.byte()"
    match shape:
        case (_, _, _, 3):
            return "; put the channels first: x.permute(0, 3, 1, 2)"
        case (_, 1, _, _):
            return "; repeat the one channel: x.expand(-1, 3, -1, -1)"
        case (3, _, _):
            return "; make a batch of the one image: x[None]"
        case (_, _, _):
            return "; give the one channel three times: x[:, None].expand(-1, 3, -1, -1)"
        case (_, 3, _, _):
            return "; crop or resize them to squares"
    return ""


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


class JoinedImages:
    """The images of one set and then those of another of the same side, or some of both."""

    def __init__(self, first: Images, second: Images, rows: Tensor | None = None) -> None:
        """`rows`: int64 [N], numbers among both (None: all of them, in order)."""
        self._first, self._second = first, second
        self._rows = torch.arange(len(first) + len(second)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dtype(self) -> torch.dtype:
        return self._first.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._first.shape[1:])

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    def take(self, index: Tensor) -> Tensor:
        rows = self._rows[index]
        of_first = rows < len(self._first)
        taken = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype)
        taken[of_first] = self._first.take(rows[of_first])
        taken[~of_first] = self._second.take(rows[~of_first] - len(self._first))
        return taken

    def __getitem__(self, chosen: slice | Tensor) -> "JoinedImages":
        return JoinedImages(self._first, self._second, self._rows[chosen])


def joined(first: "Tensor | Images", second: "Tensor | Images") -> "Tensor | Images":
    """Both sets, uint8 [N+M,3,S,S]: a tensor where both are, else none is read. `DataError` where they do not fit."""
    if len(second) == 0:
        return first
    if first.dtype != second.dtype or first.shape[1:] != second.shape[1:]:
        found = " and ".join(f"{each.dtype} {list(each.shape)}" for each in (first, second))
        raise DataError(f"all images must be uint8 of one side, got {found}".replace("torch.", ""))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second.to(first.device)])
    return JoinedImages(as_images(first), as_images(second))


def as_images(images: "Tensor | Images") -> Images:
    """A tensor, uint8 [N,3,S,S], as `Images`; what is that already, as it is."""
    return TableImages(images.cpu()) if isinstance(images, Tensor) else images


def in_memory(images: "Tensor | Images") -> Tensor:
    """All of them as one tensor, uint8 [N,3,S,S]: where they are known to be few."""
    return images if isinstance(images, Tensor) else images.take(torch.arange(len(images)))
