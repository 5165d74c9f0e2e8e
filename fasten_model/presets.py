"""What a trunk needs besides its layers: image size, batches, optimiser and schedule that suit it."""

from dataclasses import dataclass
from typing import Literal

from fasten_model.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One trunk with settings that are known to train it. Another trunk may be trained with the same settings."""

    name: str
    trunk: str
    """Name of the trunk φ (`fasten_model.trunks`)."""
    image_size: int
    """Side S of the square images that the trunk is trained on."""
    crop_padding: int
    """Pixels of padding for the random crop; a digit shifted further would lose a stroke."""
    crop_fill: Literal["edge", "zero"] = "edge"
    """What the crop's padding shows: the image's own edge pixels, or black (0, as torchvision's crop pads)."""
    horizontal_flip: bool = False
    """Mirror at random, unless the training's config says otherwise."""
    epochs: int
    least_steps: int
    """A set so small that `epochs` has fewer steps is visited more often: T̂ needs some hundred steps to become of use.
    Not where the number of epochs is chosen."""
    noisy_batch: int
    """B, noisy samples in a step."""
    clean_batch: int
    """Clean samples in a step."""
    optimizer: Literal["adamw", "sgd"]
    lr: float
    """Largest learning rate of the schedule."""
    momentum: float = 0.9
    """Of SGD; AdamW has its own."""
    nesterov: bool = False
    """Nesterov's form of SGD's momentum."""
    weight_decay: float
    schedule: Literal["one_cycle", "step", "triangle"]
    """`one_cycle`: linear up over 15 % of the steps, then down to zero. `step`: ÷10 at 5/7 and ÷100 at 6/7 (the
    reference: 50, 60 of 70). `triangle`: linear from a fifth up over 23 % of the steps, then down to 7 %."""


_REFERENCE_BATCH = 100
"""Noisy and clean batch of the reference implementation."""

_PRESETS = (
    Preset(
        name="small",
        trunk="small",
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
            trunk=trunk,
            image_size=32,
            crop_padding=4,
            # The paper's own crop and mirror belong to photographs; the ResNets by name take any images.
            crop_fill="zero" if name == "paper" else "edge",
            horizontal_flip=name == "paper",
            epochs=70,
            least_steps=0,
            noisy_batch=_REFERENCE_BATCH,
            clean_batch=_REFERENCE_BATCH,
            optimizer="sgd",
            lr=0.1,
            weight_decay=5e-4,
            schedule="step",
        )
        for name, trunk in (("resnet18", "resnet18"), ("resnet34", "resnet34"), ("paper", "resnet34"))
    ),
    # Rates from airbench94 (Jordan, 2024), restated for losses that are means and not sums, and lowered by a third so
    # that they do for the reference's switches too: its noisy head (λ = 0.5) adds half a gradient to the trunk. Ours
    # leaves that head out.
    Preset(
        name="fast",
        trunk="fast",
        image_size=32,
        crop_padding=2,
        horizontal_flip=True,
        epochs=20,
        least_steps=400,
        noisy_batch=1024,
        clean_batch=256,
        optimizer="sgd",
        lr=1.0,
        momentum=0.85,
        nesterov=True,
        weight_decay=2e-3,
        schedule="triangle",
    ),
)

PRESETS = {preset.name: preset for preset in _PRESETS}
"""Every preset by name: `small` for 8×8 to 32×32 images on two CPU cores; the others for a GPU: the ResNets, `paper`
(the reference's settings to the letter) and `fast` (a training in seconds)."""


def find_preset(name: str) -> Preset:
    """The preset called `name`; `DataError` lists the names there are."""
    if name not in PRESETS:
        raise DataError(f"no preset named {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
