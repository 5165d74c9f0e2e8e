"""What a training that was killed goes on from: a folder with `checkpoint.json` and the tensors it names. No pickle.

Random numbers are a function of (seed, step) (`fasten_model.train.seeds`): how many steps are done is all there is to
know of them. A new checkpoint is whole on the disk before the old one goes, so that at any moment one of the two can be
read.
"""

import hashlib
import json
import logging
import math
import os
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fasten_model.checks import is_number
from fasten_model.errors import DataError
from fasten_model.train.metrics import EpochMetrics
from fasten_model.whole_file import PARTIAL, write_whole

_log = logging.getLogger(__name__)

JSON_FILE = "checkpoint.json"
_TENSORS = "step-{}.safetensors"
_FOLD = "fold-"
_OF_FOLD = re.compile(r"fold-[0-9]+-of-[0-9]+")
_LOSSES = "losses"
_FORMAT = 1
_MAX_JSON_BYTES = 16 * 2**20

Description = dict[str, object]
"""Whose checkpoint it is: every choice by name, and hashes of the data and of what a trunk begins as; JSON values."""
_HASHES = ("data", "initial trunk")
"""Of which nobody would want to read the values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """Where a training keeps what it needs to be taken up again, and how often.

    The last checkpoint outlives the training: whoever has its result in safety calls `remove_checkpoint`.
    """

    folder: str | Path
    every_seconds: float = 60.0
    """No more work than this is lost; 0: after every step."""
    refuse_other: bool = True
    """A checkpoint of another training, or a damaged one, is an error; else it is replaced, with a warning."""

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    def of_fold(self, number: int, folds: int) -> "CheckpointConfig":
        """Of training `number`, from 0, where `folds` trainings make one model: the folder itself is that of a single
        one, and each of several has one inside it."""
        return self if folds == 1 else replace(self, folder=self.path / f"{_FOLD}{number + 1}-of-{folds}")

    def __post_init__(self) -> None:
        if not (is_number(self.every_seconds) and 0 <= self.every_seconds < math.inf):
            raise DataError(f"every_seconds must be 0 or above, got {self.every_seconds!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a training has come."""

    step: int
    """Steps done."""
    seconds: float
    """Spent in the epoch so far."""
    history: tuple[EpochMetrics, ...]
    """Of the epochs that are over."""
    losses: Tensor
    """[4]: sums over the steps of the epoch so far."""
    tensors: dict[str, Tensor]
    """Everything that the next step depends on."""


class CheckpointFolder:
    """The checkpoints of one training in one folder; `training` says which training that is."""

    def __init__(self, config: CheckpointConfig, training: Description) -> None:
        self.path = config.path
        self._every = config.every_seconds
        self.refuse_other = config.refuse_other
        self._training = json.loads(json.dumps(training, ensure_ascii=False))
        self._written = time.monotonic()
        _make_writable(self.path)

    @property
    def every_step(self) -> bool:
        """Whether one is due after each step."""
        return self._every == 0

    def is_due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._written >= self._every

    def write(self, progress: Progress) -> bool:
        """Make `progress` the checkpoint; where that fails the one before it stays, and a warning says so (False)."""
        started = time.monotonic()
        # Copies, because safetensors refuses tensors that share memory, as tied weights do.
        contiguous = torch.contiguous_format
        named = {**progress.tensors, _LOSSES: progress.losses}
        tensors = {name: value.detach().cpu().clone(memory_format=contiguous) for name, value in named.items()}
        content = save(tensors)
        name = _TENSORS.format(progress.step)
        description = {
            "format": _FORMAT,
            "step": progress.step,
            "seconds": progress.seconds,
            "history": [asdict(metrics) for metrics in progress.history],
            "tensors": name,
            "tensors_sha256": hashlib.sha256(content).hexdigest(),
            "training": self._training,
        }
        try:
            write_whole(self.path / name, content)
            write_whole(self.path / JSON_FILE, json.dumps(description, ensure_ascii=False, indent=1).encode())
            _sync(self.path)
            _remove(path for path in _own_files(self.path) if path.name not in (name, JSON_FILE))
        except OSError as error:
            _log.warning("no checkpoint of step %d: %s: %s", progress.step, self.path, error.strerror)
            return False
        finally:
            self._written = time.monotonic()
        _log.debug("checkpoint of step %d: %.2f s", progress.step, self._written - started)
        return True

    def read(self) -> Progress | None:
        """The checkpoint; None where there is none. `DataError` if it is damaged, or another training's."""
        try:
            return self._read()
        except DataError as error:
            if self.refuse_other:
                raise
            _log.warning("training starts anew: %s", error)
            return None

    def _read(self) -> Progress | None:
        path = self.path / JSON_FILE
        try:
            if not path.exists():
                return None
            with path.open("rb") as file:
                raw = json.loads(file.read(_MAX_JSON_BYTES))
            self._check(raw)
            content = (self.path / Path(raw["tensors"]).name).read_bytes()
            if hashlib.sha256(content).hexdigest() != raw["tensors_sha256"]:
                raise ValueError(f"{raw['tensors']} is not the file that {JSON_FILE} tells of")
            # Copies: what is read in place need not be aligned as torch aligns it, and sums may then differ.
            tensors = {name: value.clone() for name, value in load(content).items()}
            return Progress(
                step=int(raw["step"]),
                seconds=float(raw["seconds"]),
                history=tuple(EpochMetrics(**metrics) for metrics in raw["history"]),
                losses=tensors.pop(_LOSSES),
                tensors=tensors,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise DataError(
                f"the checkpoint in {self.path} cannot be read ({reason}); remove that folder, or give another"
            ) from error

    def remove(self) -> None:
        """Remove the checkpoint: nothing is to go on from it."""
        remove_checkpoint(self.path)

    def _check(self, raw: Any) -> None:
        if raw["format"] != _FORMAT:
            raise ValueError(f"format {raw['format']}, this version knows {_FORMAT}")
        other, own = raw["training"], self._training
        different = sorted(name for name in other.keys() | own.keys() if other.get(name) != own.get(name))
        if different:
            named = ", ".join(
                name if name in _HASHES else f"{name} {other.get(name)}, here {own.get(name)}" for name in different[:3]
            )
            more = " …" if len(different) > 3 else ""
            raise DataError(
                f"{self.path} has the checkpoint of another training ({named}{more}); "
                "remove that folder, or give another"
            )


def remove_checkpoint(folder: str | Path) -> None:
    """Remove the checkpoint in `folder`, those of its folds, and the folder if nothing else is in it."""
    folder = Path(folder)
    for inner in _folds(folder):
        _remove_one(inner)
    _remove_one(folder)


def clear_other_layouts(checkpoint: CheckpointConfig, folds: int) -> None:
    """See that the folder has no checkpoint of a training with another number of models: that is another training.

    Raises `DataError` where others are refused; else they are removed, with a warning.
    """
    folder = checkpoint.path
    own = f"-of-{folds}"
    others = [inner for inner in _folds(folder) if folds == 1 or not inner.name.endswith(own)]
    if folds > 1 and (folder / JSON_FILE).exists():
        others.append(folder)
    if not others:
        return
    what = f"{folder} has the checkpoint of another training ({others[0].name}, here folds {folds})"
    if checkpoint.refuse_other:
        raise DataError(f"{what}; remove that folder, or give another")
    _log.warning("training starts anew: %s", what)
    for other in others:
        _remove_one(other)


def _folds(folder: Path) -> list[Path]:
    """The folders that `CheckpointConfig.of_fold` makes in `folder`."""
    return [path for path in folder.glob(f"{_FOLD}*") if _OF_FOLD.fullmatch(path.name) and path.is_dir()]


def _remove_one(folder: Path) -> None:
    try:
        # The JSON first: what is left without it is no checkpoint, only files that the next one replaces.
        (folder / JSON_FILE).unlink(missing_ok=True)
        _remove(_own_files(folder))
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        _log.warning("the checkpoint in %s could not be removed (%s); remove that folder", folder, error.strerror)


def _make_writable(folder: Path) -> None:
    """Better said now than after an hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe{PARTIAL}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"no checkpoint can be written to {folder} ({error.strerror}); give another folder") from error


def _own_files(folder: Path) -> list[Path]:
    names = (_TENSORS.format("*"), f"*{PARTIAL}", JSON_FILE)
    return [path for name in names for path in folder.glob(name)]


def _remove(paths: Any) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Put the names in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
