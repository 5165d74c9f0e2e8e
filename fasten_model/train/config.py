"""Every choice that a training run is made with."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fasten_model.checks import check_flag, check_whole, is_number
from fasten_model.errors import DataError
from fasten_model.presets import Preset, find_preset
from fasten_model.train.method import OURS, PAPER, Method


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train. What is None comes from the preset."""

    preset: str = "small"
    trunk: str | None = None
    """Another trunk with the preset's settings (`fasten_model.network.build_network`)."""
    trunk_weights: str | Path | None = None
    """Path of a file with weights that the trunk starts from."""
    image_size: int | None = None
    """Side S of the square images."""
    epochs: int | None = None
    noisy_batch: int | None = None
    """B, noisy samples in a step, at most; an odd number of samples in twos has a batch of three."""
    clean_batch: int | None = None
    """D, clean samples in a step."""
    lr: float | None = None
    """Largest learning rate of the schedule."""
    weight_decay: float | None = None
    method: Method | None = None
    """FasTEN's switches; None: the reference's for the preset `paper`, else ours."""
    horizontal_flip: bool | None = None
    """Mirror at random. Wrong for digits, letters, and whatever else has a handedness."""
    compile: bool = False
    """Compile the network (`torch.compile`): that takes a minute, which only a long training can win back."""
    cuda_graphs: bool = False
    """Replay the compiled network as CUDA graphs, one for each size of batch: saves the launch of every kernel."""
    seed: int = 0
    device: str = "auto"
    """`auto` is a GPU where there is one."""

    def __post_init__(self) -> None:
        settings = self.settings()
        for name, lowest in (("epochs", 1), ("noisy_batch", 2), ("clean_batch", 2), ("image_size", 1)):
            check_whole(name, getattr(settings, name), lowest)
        if not isinstance(self.seed, int):
            raise DataError(f"seed must be a whole number, got {self.seed!r}")
        if not isinstance(self.method, Method | None):
            raise DataError(f"method must be a Method, as OURS and PAPER are, got {self.method!r}")
        for name, flag in (
            ("horizontal_flip", settings.horizontal_flip),
            ("compile", self.compile),
            ("cuda_graphs", self.cuda_graphs),
        ):
            check_flag(name, flag)
        if self.cuda_graphs and not self.compile:
            raise DataError("cuda_graphs replays what was compiled: set compile, too")
        if not (is_number(settings.lr) and 0 < settings.lr < math.inf):
            raise DataError(f"lr must be above 0, got {settings.lr!r}")
        if not (is_number(settings.weight_decay) and 0 <= settings.weight_decay < math.inf):
            raise DataError(f"weight_decay must be 0 or above, got {settings.weight_decay!r}")

    def settings(self) -> Preset:
        """The preset with this config's own choices put in."""
        preset = find_preset(self.preset)
        names = ("trunk", "image_size", "epochs", "noisy_batch", "clean_batch", "lr", "weight_decay", "horizontal_flip")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(preset, **chosen, least_steps=preset.least_steps if self.epochs is None else 0)

    def switches(self) -> Method:
        """The method with this config's own choice put in."""
        return self.method or (PAPER if self.preset == "paper" else OURS)

    def described(self) -> dict[str, object]:
        """Every choice by name, flat and with nothing left to a default: what to log with a run."""
        own = {name: getattr(self, name) for name in ("compile", "cuda_graphs", "seed", "device")}
        own["trunk_weights"] = None if self.trunk_weights is None else str(self.trunk_weights)
        switches = {f"method.{name}": value for name, value in asdict(self.switches()).items()}
        settings = {f"preset.{name}": value for name, value in asdict(self.settings()).items() if name != "name"}
        return {"preset": self.preset, **own, **settings, **switches}
