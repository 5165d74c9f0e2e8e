"""The part of `benchmarks.gpu` that needs several GPUs: training by torchrun, a process on each, against one process.

Both are `python -m fasten_model.train` on the same two files with the same seed. Batches are those of all processes
together, so that the number of processes changes the time and nothing else.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchvision.io import encode_png  # type: ignore[import-untyped]

from benchmarks.gpu_setting import PartFailed, Setting
from benchmarks.methods import Problem
from benchmarks.report import table
from fasten_model.fit_files import FITTED_FILE

TRAININGS = (("fast", None), ("paper", 3))
"""(preset, epochs): None is the preset's own."""
_STOPPED_WITHIN = 10
"""Seconds that torchrun has to end its processes in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """One training in some processes."""

    preset: str
    processes: int
    first_epoch_s: float
    epoch_s: float
    """Median of the later ones, or the first where there is no other."""
    accuracy: float | None
    """On the held-out audited samples."""


def gpu_count(device: torch.device) -> int:
    """The GPUs that torchrun can give a process each; none where another device was asked for."""
    return torch.cuda.device_count() if device.type == "cuda" else 0


def processes(setting: Setting) -> None:
    """Seconds of an epoch in one process, and in as many as there are GPUs, with NCCL between them."""
    count = gpu_count(setting.device)
    if count < 2:
        why = f"Left out: torchrun with NCCL is measured on two GPUs or more, and torch sees {count} here."
        setting.report.add("processes", why, {"gpus": count})
        return
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()  # what earlier parts have freed is needed by the others now
    found: list[Parallel] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(setting.cell(setting.options.noise[0], 0).problem, folder)
        for preset, epochs in TRAININGS:
            for world in (1, count):
                arguments = [*files, "--out", str(folder / f"{preset}-{world}"), *options(setting, preset, epochs)]
                try:
                    train(arguments, world)
                except PartFailed as error:  # the others still count
                    failed.append(f"{preset} in {world} processes: {error}")
                else:
                    found.append(read(folder / f"{preset}-{world}", preset, world))
                text = "\n\n".join([as_table(found), *(f"Failed: {line}" for line in failed)])
                setting.report.add("processes", text, [asdict(each) for each in found])
    if failed:
        raise PartFailed("; ".join(failed))


def options(setting: Setting, preset: str, epochs: int | None) -> list[str]:
    """What `python -m fasten_model.train` is told beside the files: the config of the other parts."""
    config = setting.config(preset)
    said: dict[str, object] = {
        "preset": config.preset,
        "device": setting.device.type,  # each process takes the GPU of its number
        "trunk": config.trunk,
        "noisy-batch": config.noisy_batch,
        "clean-batch": config.clean_batch,
        "epochs": config.epochs if setting.options.tiny else setting.options.epochs or epochs,
    }
    flip = "--horizontal-flip" if config.horizontal_flip else "--no-horizontal-flip"
    return [flip, *(f"--{name}={value}" for name, value in said.items() if value is not None)]


def train(arguments: Sequence[str], world: int) -> None:
    """Run it, in `world` processes; `PartFailed` with the last line that it says. Interrupted, it ends with us."""
    start = ["torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "-m"] if world > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-m", *start, "fasten_model.train", *arguments],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            _, said = child.communicate()
        except BaseException:
            child.terminate()  # torchrun passes it on; killed, it would leave its processes behind
            try:
                child.wait(_STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    if child.returncode:
        print(said, file=sys.stderr)
        raise PartFailed(f"status {child.returncode}, {last_line(said)}")


def last_line(said: str) -> str:
    """The last that the training itself says; torchrun goes on to tell, at length, that a process has failed."""
    own = re.split(r"^E\d{4} ", said, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    return next((line for line in reversed(own) if line.strip()), "and it said nothing")


def read(model: Path, preset: str, world: int) -> Parallel:
    """What a training leaves beside its weights."""
    known = json.loads((model / FITTED_FILE).read_bytes())
    first, *later = [epoch["seconds"] for epoch in known["history"]]
    return Parallel(
        preset=preset, processes=world, first_epoch_s=first, epoch_s=statistics.median(later or [first]),
        accuracy=known["accuracy"],
    )  # fmt: skip


def as_table(found: Sequence[Parallel]) -> str:
    """A line for each training; “× one process” is how many times as fast its epochs are."""
    alone = {each.preset: each.epoch_s for each in found if each.processes == 1}
    body = [
        [
            each.preset, str(each.processes), f"{each.first_epoch_s:.2f}", f"{each.epoch_s:.3f}",
            f"{alone[each.preset] / each.epoch_s:.2f}" if each.preset in alone else "–",
            "–" if each.accuracy is None else f"{100 * each.accuracy:.1f}",
        ]
        for each in found
    ]  # fmt: skip
    head = ["preset", "processes", "first epoch, s", "later epochs, s (median)", "× one process", "held-out %"]
    return table(head, body)


def write_files(problem: Problem, folder: Path) -> list[str]:
    """The two files of a cell, and where their decoded images are kept, as options."""
    given = [None if label < 0 else str(label) for label in problem.clean_given.tolist()]
    clean = _columns("clean", problem.clean_images, problem.clean_labels) | {"given_label": given}
    noisy = _columns("noisy", problem.noisy_images, problem.noisy_labels)
    for name, columns in (("clean", clean), ("noisy", noisy)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return [*(f"--{name}={folder / f'{name}.parquet'}" for name in ("clean", "noisy")), f"--cache={folder / 'cache'}"]


def _columns(name: str, images: Tensor, labels: Tensor) -> dict[str, list[Any]]:
    return {
        "sample_id": [f"{name} {number}" for number in range(len(labels))],
        "image": [{"bytes": encode_png(image).numpy().tobytes(), "path": None} for image in images],
        "label": [str(label) for label in labels.tolist()],
    }
