"""One method on one draw of a cell, measured: the same for every method."""

import copy
import ctypes
import gc
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.data import Cell
from benchmarks.data.noise import counted_transition
from benchmarks.machine import code_line, hardware_line
from benchmarks.measures import accuracy, correction, expected_calibration_error, transition_error
from benchmarks.methods.base import Method, Outcome
from benchmarks.results import Row
from benchmarks.rows_file import reason_of
from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.network import TwoHeadNetwork
from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long each method may train: either a number of epochs or seconds."""

    epochs: int | None = None
    seconds: float | None = None


def parse_budget(text: str) -> Budget:
    """`10epochs` or `60s`; `DataError` for anything else."""
    try:
        if text.endswith("epochs") and int(text.removesuffix("epochs")) >= 1:
            return Budget(epochs=int(text.removesuffix("epochs")))
        if text.endswith("s") and 0 < float(text.removesuffix("s")) < math.inf:
            return Budget(seconds=float(text.removesuffix("s")))
    except ValueError:
        pass
    raise DataError(f"no budget {text!r}; write 10epochs or 60s")


def epochs_within(seconds: float, method: Method, cell: Cell, config: TrainConfig) -> int:
    """The epochs that `method` has time for in `seconds`, at least 1: from runs of one and of two epochs.

    Their difference is an epoch; the rest of the first run is spent once (judging the labels, estimating T̂, …).
    """
    taken = []
    for epochs in (1, 2):
        started = time.perf_counter()
        method(cell.problem, replace(config, epochs=epochs), None)
        taken.append(time.perf_counter() - started)
    epoch = max(taken[1] - taken[0], taken[1] / 20)
    return max(1, int((seconds - max(0.0, taken[0] - epoch)) / epoch))


def measure(
    name: str,
    method: Method,
    dataset: str,
    cell: Cell,
    config: TrainConfig,
    *,
    rho: float,
    seconds: float | None = None,
) -> Row:
    """Train and judge; what goes wrong on the way is the row's `error`, in one line, and no exception.

    rho: ρ, from which belief on a label counts as changed. seconds: where given, the epochs are those that fit in.
    """
    row = Row(
        noise=str(cell.noise),
        seed=config.seed,
        method=name,
        dataset=dataset,
        noisy=len(cell.problem.noisy_labels),
        clean=len(cell.problem.clean_labels),
        machine=hardware_line(resolve_device(config.device)),
        code=code_line(),
    )
    try:
        epochs = config.settings().epochs if seconds is None else epochs_within(seconds, method, cell, config)
        config = replace(config, epochs=epochs)
        row = replace(row, epochs=epochs, config=_described(config))
        return _measured(row, method, cell, config, rho)
    except Exception as error:  # one method's failure must not end a night of runs
        return replace(row, error=reason_of(error))


def _described(config: TrainConfig) -> str:
    """As JSON; FasTEN's switches are in it where they are the config's own and not the method's."""
    said = config.described()
    if config.method is None:
        said = {name: value for name, value in said.items() if not name.startswith("method.")}
    return json.dumps(said, default=str)


def _measured(row: Row, method: Method, cell: Cell, config: TrainConfig, rho: float) -> Row:
    device = resolve_device(config.device)
    watcher = _Watcher(cell.validation_images, cell.validation_labels, device)
    with _peak_memory(device) as peak_mib:
        started, cpu_started = time.perf_counter(), time.process_time()
        outcome = method(cell.problem, config, watcher)
        _wait(device)
        seconds = time.perf_counter() - started - watcher.seconds
        cpu_seconds = time.process_time() - cpu_started - watcher.cpu_seconds
    _check(outcome, len(cell.problem.noisy_labels), cell.problem.num_classes)

    known = cell.truth >= 0  # real data does not have the truth of each sample
    given, truth = cell.problem.noisy_labels[known], cell.truth[known]
    labels = correction(outcome.beliefs.cpu()[known], given, truth, rho)
    test = torch.softmax(_logits(outcome.network, cell.test_images) / outcome.temperature, dim=1)
    best = watcher.best_network
    distance, true_transition, pairs = None, cell.true_transition, cell.pairs
    if outcome.transition_of is not None:  # T̂ of corrected labels is held against what they have become
        true_transition = counted_transition(truth, outcome.transition_of.cpu()[known], cell.problem.num_classes)
        pairs = len(truth)
    if outcome.transition is not None and pairs:
        distance = transition_error(outcome.transition, true_transition)
    epochs = row.epochs or 0
    return replace(
        row,
        noise_rate=None if labels.given is None else 1 - labels.given,
        accuracy_last=accuracy(test.argmax(dim=1), cell.test_labels),
        accuracy_best=None
        if best is None
        else accuracy(_logits(best, cell.test_images).argmax(dim=1), cell.test_labels),
        best_epoch=watcher.best_epoch,
        validation_accuracy=watcher.accuracies,
        ece=expected_calibration_error(test, cell.test_labels),
        transition_absolute=distance.absolute if distance else None,
        transition_chi2=distance.chi2 if distance else None,
        true_diagonal=float(true_transition.double().diagonal().mean()) if pairs else None,
        estimated_diagonal=None if outcome.transition is None else float(outcome.transition.double().diagonal().mean()),
        labels_correct=labels.correct,
        labels_correct_of_wrong=labels.correct_of_wrong,
        relabel_precision=labels.precision,
        relabel_recall=labels.recall,
        relabelled=labels.relabelled,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        images_per_second=len(known) * epochs / seconds,
        peak_memory_mib=peak_mib(),
        passes=outcome.passes,
    )


class _Watcher:
    """The observer: validation accuracy of each epoch, the best network, and the time that this takes."""

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device) -> None:
        self._images, self._labels, self._device = images, labels, device
        self.accuracies: list[float] = []
        self.best_epoch: int | None = None
        self.best_network: nn.Module | None = None
        self.seconds = self.cpu_seconds = 0.0

    def __call__(self, epoch: int, network: nn.Module) -> None:
        _wait(self._device)  # what training still had to do is training's time
        started, cpu_started = time.perf_counter(), time.process_time()
        found = accuracy(_logits(network, self._images).argmax(dim=1), self._labels)
        if found is not None:
            if found > max(self.accuracies, default=-1.0):
                self.best_epoch, self.best_network = epoch, copy.deepcopy(network)
            self.accuracies.append(found)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    """The clean head's, [N,K] on the CPU."""
    return predict_logits(cast(TwoHeadNetwork, network), images)[0]


def _check(outcome: Outcome, count: int, num_classes: int) -> None:
    """An outcome of the wrong shape, or beliefs that are none, would make figures of nonsense."""
    beliefs, transition = outcome.beliefs, outcome.transition
    if beliefs.shape != (count, num_classes) or not torch.isfinite(beliefs).all():
        raise DataError(f"beliefs must be finite [{count},{num_classes}], got {list(beliefs.shape)}")
    if not torch.allclose(beliefs.double().sum(dim=1), _one(), atol=1e-3):
        raise DataError("the rows of the beliefs do not sum to 1")
    if transition is not None and not torch.allclose(transition.double().sum(dim=1).cpu(), _one(), atol=1e-3):
        raise DataError("the rows of T̂ do not sum to 1")


def _one() -> Tensor:
    return torch.ones((), dtype=torch.float64)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """A function that says, at the end, by how many MiB memory grew in between; None where it cannot be told.

    Linux keeps the peak of the resident set, which can be set back (proc(5): clear_refs). What was freed before goes
    back to the system first, or it would be used again and no growth be seen.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc's; another C library keeps what it has
    except AttributeError:
        logger.info("freed memory cannot be given back here: peaks are too low")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        start = _peak_resident_kib()
    except OSError:
        yield lambda: None
        return
    yield lambda: (_peak_resident_kib() - start) / 1024


def _peak_resident_kib() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("the kernel tells no peak of the resident set")
