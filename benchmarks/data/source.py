"""A data set in memory: what a cell is drawn from.

Shapes: M training samples, E test samples, K classes, S image side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional

from fasten_model.errors import DataError

UNKNOWN = -1
"""In any column of labels: there is none."""


class Role(IntEnum):
    """Which set of a cell a training sample may be drawn into."""

    ANY = 0
    NOISY = 1
    CLEAN = 2
    VALIDATION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The training part and the test part of one data set."""

    name: str
    train_images: Tensor
    """uint8 [M,3,S,S]."""
    train_labels: Tensor
    """int64 [M]: the truth; −1 where nobody knows it."""
    test_images: Tensor
    """uint8 [E,3,S,S]."""
    test_labels: Tensor
    """int64 [E]."""
    classes: tuple[str, ...]
    mistaken_for: tuple[int, ...]
    """K classes: what each class is taken for under asymmetric noise; its own index where it is not mistaken."""
    human: Mapping[str, Tensor] = field(default_factory=dict)
    """Columns of labels by people, int64 [M] each, −1 where there is none; empty where there are no such columns."""
    given: Tensor | None = None
    """int64 [M]: the labels that the data itself came with, −1 where there is none; None: the data has no noise."""
    role: Tensor | None = None
    """int64 [M] of `Role`, where the data says what each sample is for; None: all ANY."""

    def __post_init__(self) -> None:
        count, num_classes = len(self.train_images), len(self.classes)
        columns = {"train_labels": self.train_labels, **self.human}
        columns |= {} if self.given is None else {"given": self.given}
        for name, column in columns.items():
            if column.shape != (count,) or column.dtype != torch.int64:
                raise DataError(f"{self.name}: {name} must be int64 [{count}], found {tuple(column.shape)}")
            if ((column < UNKNOWN) | (column >= num_classes)).any():
                raise DataError(f"{self.name}: {name} has a label outside −1…{num_classes - 1}; is this another file?")
        if len(self.mistaken_for) != num_classes:
            raise DataError(f"{self.name}: {len(self.mistaken_for)} entries in mistaken_for for {num_classes} classes")
        if self.test_labels.shape != (len(self.test_images),):
            raise DataError(f"{self.name}: {len(self.test_images)} test images, {len(self.test_labels)} test labels")
        for name, images in (("train_images", self.train_images), ("test_images", self.test_images)):
            if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
                raise DataError(f"{self.name}: {name} must be uint8 [.,3,S,S], found {tuple(images.shape)}")

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def roles(self) -> Tensor:
        """int64 [M]: `role`, or ANY for all."""
        return torch.full_like(self.train_labels, Role.ANY) if self.role is None else self.role


def to_square(pixels: Tensor, size: int) -> Tensor:
    """uint8 [M,H,W] (grey) or [M,3,H,W] → uint8 [M,3,size,size]; smooth, antialiased, a few thousand at a time."""
    colour = pixels if pixels.ndim == 4 else pixels[:, None]
    if colour.shape[-2:] == (size, size):
        return colour.expand(-1, 3, -1, -1).contiguous()
    out = torch.empty(len(colour), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(colour), 4096):
        part = colour[start : start + 4096].float()
        resized = functional.interpolate(part, size=(size, size), mode="bicubic", antialias=True)
        out[start : start + 4096] = resized.round_().clamp_(0, 255).to(torch.uint8)
    return out
