"""What the parts of `benchmarks.gpu` share: the data, read once, the configs, and the files that they write to."""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.data import Cell, NoiseSpec, Source, draw_cell, load_source
from benchmarks.machine import machine, machine_line
from benchmarks.plan import HANDED, SIZES
from fasten_model.train import TrainConfig

TINY = (64, 20, 20)
"""(noisy, clean, validation) samples in miniature."""


class Report:
    """What has been found so far, in two files that are written anew each time."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._sections: list[tuple[str, str]] = []
        self._data: dict[str, object] = {"machine": machine(device)}
        self._head = f"# On the GPU\n\n{machine_line(device)}.\n"
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, text: str, data: object) -> None:
        """Keep a section, in place of an earlier one of its name, and print it."""
        self._sections = [(other, body) for other, body in self._sections if other != name] + [(name, text)]
        self._data[name] = data
        written = self._head + "".join(f"\n## {title}\n\n{body}\n" for title, body in self._sections)
        (self._folder / "gpu.md").write_text(written, encoding="utf-8")
        (self._folder / "gpu.json").write_text(json.dumps(self._data, indent=1, default=str), encoding="utf-8")
        print(f"\n## {name}\n\n{text}", flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all parts share."""

    options: argparse.Namespace
    device: torch.device
    out: Path
    report: Report

    def config(self, preset: str, **more: object) -> TrainConfig:
        """The preset; in miniature its schedule and its batches stay, but a small trunk and few samples do."""
        config = TrainConfig(
            preset=preset, device=str(self.device), horizontal_flip=self.options.dataset not in HANDED
        )  # fmt: skip
        if self.options.tiny:
            config = replace(config, trunk="small", noisy_batch=16, clean_batch=10, epochs=1)
        return replace(config, **more)  # type: ignore[arg-type]

    def source(self) -> Source:
        """The data, read once."""
        if not LOADED:
            started = time.perf_counter()
            root = self.options.root
            LOADED.append(load_source(self.options.dataset, root=root, size=self.config("paper").settings().image_size))
            print(f"{self.options.dataset} read in {time.perf_counter() - started:.1f} s", flush=True)
        return LOADED[0]

    def sizes(self) -> tuple[int, int, int]:
        """(noisy, clean, validation) samples."""
        return TINY if self.options.tiny else SIZES[self.options.dataset]

    def cell(self, noise: NoiseSpec, seed: int) -> Cell:
        """One draw."""
        noisy, clean, validation = self.sizes()
        return draw_cell(self.source(), noise, noisy=noisy, clean=clean, validation=validation, seed=seed)


LOADED: list[Source] = []
