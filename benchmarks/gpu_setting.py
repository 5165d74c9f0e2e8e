"""What the parts of `benchmarks.gpu` share: the data, read once, the configs, and the files that they write to."""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import Cell, NoiseSpec, Source, draw_cell, load_source
from benchmarks.gpu_targets import Target
from benchmarks.machine import machine, machine_line
from benchmarks.plan import HANDED, SIZES
from benchmarks.report import table
from benchmarks.rows_file import check_writable
from fasten_model.errors import DataError, FastenError
from fasten_model.train import TrainConfig
from fasten_model.whole_file import write_whole

TINY = (64, 20, 20)
"""(noisy, clean, validation) samples in miniature."""


class PartFailed(FastenError):
    """A part came to its end, and something of it has no figures."""


class Report:
    """What has been found so far, in two files that are written anew each time.

    What an earlier call left in the folder stays, but for the sections that are made again: parts may come one by one.
    `DataError` where nothing can be written there, or another machine's figures are there.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._json, self.markdown = folder / "gpu.json", folder / "gpu.md"
        self._head = f"# On the GPU\n\n{machine_line(device)}.\n"
        check_writable(self._json)
        self._data: dict[str, Any] = {"machine": machine(device), "targets": [], "sections": {}}
        if self._json.exists():
            self._go_on()

    def _go_on(self) -> None:
        try:
            found = json.loads(self._json.read_bytes())
            there, _, _ = found["machine"], found["targets"], found["sections"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{self._json} is no file of this command; write elsewhere (--out)") from None
        if there != self._data["machine"]:
            raise DataError(f"{self._json} has figures of another machine or other versions; write elsewhere (--out)")
        self._data = found

    def add(self, name: str, text: str, data: object) -> None:
        """Keep a section, in place of an earlier one of its name, and print it."""
        self._data["sections"].pop(name, None)
        self._data["sections"][name] = text
        self._data[name] = data
        self._write()
        print(f"\n## {name}\n\n{text}", flush=True)

    def judge(self, targets: Iterable[Target | None]) -> None:
        """Keep what was wanted beside what was found, and print it; what is None waits for its figure."""
        for target in targets:
            if target is not None:
                others = [each for each in self._data["targets"] if each["what"] != target.what]
                self._data["targets"] = [*others, asdict(target)]
                print(f"{target.what}: {target.found}; wanted {target.wanted}: {target.verdict}", flush=True)
        self._write()

    def _write(self) -> None:
        sections = dict(self._data["sections"])
        if self._data["targets"]:
            body = [[each["what"], each["wanted"], each["found"], each["verdict"]] for each in self._data["targets"]]
            sections = {"Targets": table(["", "wanted", "found", "verdict"], body, texts=(0, 1, 2, 3)), **sections}
        written = self._head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())
        write_whole(self.markdown, written.encode())
        write_whole(self._json, json.dumps(self._data, indent=1, default=str).encode())


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
