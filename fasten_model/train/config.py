"""Every choice that a training run is made with."""

import math
from dataclasses import dataclass, replace

from fasten_model.errors import DataError
from fasten_model.presets import Preset, find_preset


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train. What is None comes from the preset."""

    preset: str = "small"
    epochs: int | None = None
    noisy_batch: int | None = None
    """B, noisy samples in a step."""
    clean_batch: int | None = None
    """D, clean samples in a step; T̂ is estimated from these."""
    lr: float | None = None
    """Largest learning rate of the schedule."""
    weight_decay: float | None = None
    rho: float = 0.8
    """ρ: correct a label where the clean head is at least this sure. Above 1: never."""
    noisy_loss_weight: float = 0.5
    """λ."""
    smoothing: float = 1e-3
    """δ of `smooth_transition`."""
    horizontal_flip: bool = False
    """Mirror at random. Wrong for digits, letters, and whatever else has a handedness."""
    seed: int = 0
    device: str = "auto"
    """`auto` is a GPU where there is one."""

    def __post_init__(self) -> None:
        settings = self.settings()
        for name, lowest in (("epochs", 1), ("noisy_batch", 2), ("clean_batch", 2)):
            if getattr(settings, name) < lowest:
                raise DataError(f"{name} must be at least {lowest}, got {getattr(settings, name)}")
        if not 0 < settings.lr < math.inf:
            raise DataError(f"lr must be above 0, got {settings.lr}")
        for name, value in (
            ("weight_decay", settings.weight_decay),
            ("rho", self.rho),
            ("noisy_loss_weight", self.noisy_loss_weight),
        ):
            if not 0 <= value < math.inf:
                raise DataError(f"{name} must be 0 or above, got {value}")
        if not 0 < self.smoothing <= 1:
            raise DataError(f"smoothing must be above 0 and at most 1, got {self.smoothing}")

    def settings(self) -> Preset:
        """The preset with this config's own choices put in."""
        preset = find_preset(self.preset)
        names = ("epochs", "noisy_batch", "clean_batch", "lr", "weight_decay")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(preset, **chosen, least_steps=preset.least_steps if self.epochs is None else 0)

    def resolved(self) -> "TrainConfig":
        """The same with every None replaced by the preset's value: what to log with a run."""
        settings = self.settings()
        return replace(
            self,
            epochs=settings.epochs,
            noisy_batch=settings.noisy_batch,
            clean_batch=settings.clean_batch,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
        )
