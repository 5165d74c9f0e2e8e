"""What a trunk needs besides its layers: image size, batches, optimiser and schedule that suit it."""

from dataclasses import dataclass
from typing import Literal

from fasten_model.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One trunk with settings that are known to train it."""

    name: str
    image_size: int
    """Side S of the square images that the trunk is trained on."""
    crop_padding: int
    """Pixels of padding for the random crop; a digit shifted further would lose a stroke."""
    epochs: int
    least_steps: int
    """A set so small that `epochs` has fewer steps is visited more often: T̂ needs some hundred steps to become of use.
    Not where the number of epochs is chosen."""
    noisy_batch: int
    clean_batch: int
    optimizer: Literal["adamw", "sgd"]
    lr: float
    weight_decay: float
    schedule: Literal["one_cycle", "step"]
    """`one_cycle`: linear up, then down to zero. `step`: ÷10 at 5/7 and ÷100 at 6/7 (the reference: 50, 60 of 70)."""


_REFERENCE_BATCH = 100
"""Noisy and clean batch of the reference implementation."""

_PRESETS = (
    Preset(
        name="small",
        image_size=32,
        crop_padding=2,
        epochs=15,
        least_steps=400,
        noisy_batch=64,
        clean_batch=32,
        optimizer="adamw",
        lr=3e-3,
        weight_decay=1e-2,
        schedule="one_cycle",
    ),
    *(
        Preset(
            name=name,
            image_size=32,
            crop_padding=4,
            epochs=70,
            least_steps=0,
            noisy_batch=_REFERENCE_BATCH,
            clean_batch=_REFERENCE_BATCH,
            optimizer="sgd",
            lr=0.1,
            weight_decay=5e-4,
            schedule="step",
        )
        for name in ("resnet18", "resnet34")
    ),
)

PRESETS = {preset.name: preset for preset in _PRESETS}
"""Every preset by name: `small` for 8×8 to 32×32 images on two CPU cores, the ResNets for a GPU."""


def find_preset(name: str) -> Preset:
    """The preset called `name`; `DataError` lists the names there are."""
    if name not in PRESETS:
        raise DataError(f"no preset named {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
