"""What the next step depends on, gathered from a training's parts and given back to them."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

import torch
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.train.averaging import AveragedWeights
from fasten_model.train.batch import TrainingStep
from fasten_model.train.checkpoint import CheckpointFolder, Progress
from fasten_model.train.metrics import EpochMetrics
from fasten_model.train.process import Process
from fasten_model.train.stopping import Stop, Stopped

_log = logging.getLogger(__name__)

_AGREE_EVERY = 16
"""Steps after which several processes ask each other whether to save or to stop."""


class TrainingState:
    """Every tensor that the next step depends on, by name: the same whatever the number of processes."""

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedWeights | None, step: TrainingStep
    ) -> None:
        self._modules = {"network": network, **({} if average is None else {"average": average.network})}
        self._optimizer = optimizer
        self._step = step

    def gather(self) -> dict[str, Tensor]:
        """All of them; every process calls this."""
        parts = {name: module.state_dict() for name, module in self._modules.items()}
        parts["step"] = self._step.state()
        for number, values in self._optimizer.state_dict()["state"].items():
            parts[f"optimizer.{number}"] = {name: value for name, value in values.items() if value is not None}
        tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        strange = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
        if strange:
            raise DataError(f"this training keeps state that is no tensor ({strange[0]}): train without a checkpoint")
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `gather` returned. `DataError` if it does not fit."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value
        trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        optimizer = self._optimizer.state_dict()
        try:
            optimizer["state"] = {
                (number := int(part.removeprefix("optimizer."))): _laid_out(values, trained[number])
                for part, values in parts.items()
                if part.startswith("optimizer.")
            }
            for name, module in self._modules.items():
                module.load_state_dict(parts.get(name, {}))
            self._optimizer.load_state_dict(optimizer)
            self._step.load_state(parts.get("step", {}))
        except (RuntimeError, LookupError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"the checkpoint does not fit this training ({reason}); remove its folder") from error


def _laid_out(values: dict[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """State of `parameter` in memory as that is (channels last): in another order sums would end in other last bits."""
    return {
        name: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        for name, value in values.items()
    }


class Keeper:
    """Saves a training's progress now and then, and ends it where that is asked for: `Stopped`."""

    def __init__(
        self, state: TrainingState, process: Process, folder: CheckpointFolder | None, stop: Stop | None
    ) -> None:
        """folder: the first process's; the others do not touch it."""
        self._state, self._process, self._folder = state, process, folder
        self._kept = process.any(folder is not None)[0]
        self._every_step = process.any(folder is not None and folder.every_step)[0]
        self._refuses = process.any(folder is not None and folder.refuse_other)[0]
        self._stop = stop
        self._asked: Callable[[], bool] = lambda: False
        self._context = ExitStack()

    def __enter__(self) -> "Keeper":
        if self._stop is not None:
            self._asked = self._context.enter_context(self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def start(self) -> Progress:
        """Where to begin: at a checkpoint, whose tensors are put back, or at the first step."""
        anew = Progress(step=0, seconds=0.0, history=(), losses=torch.zeros(4), tensors={})
        saved = self._process.first(self._folder.read if self._folder is not None else lambda: None)
        if saved is None:
            return anew
        untouched = {name: value.clone() for name, value in self._state.gather().items()}
        try:
            self._state.restore(saved.tensors)
        except DataError as error:  # in every process: all were given the same tensors
            if self._refuses:
                raise
            if self._folder is not None:
                _log.warning("training starts anew: %s", error)
            self._state.restore(untouched)  # part of the other's may have been put in
            return anew
        if self._folder is None:  # the sums so far are the first process's
            return replace(saved, losses=torch.zeros(4))
        _log.info("going on after step %d, from the checkpoint in %s", saved.step, self._folder.path)
        return saved

    def after_step(
        self, done: int, losses: Tensor, seconds: float, history: list[EpochMetrics], *, last: bool = False
    ) -> None:
        """Save if it is time, or `last`; leave if that was asked for.

        done: steps so far. losses: this process's sums over the epoch so far. seconds: what the epoch has taken.
        """
        if self._process.world > 1 and not (last or self._every_step or done % _AGREE_EVERY == 0):
            return
        asked, due = self._process.any(self._asked(), self._folder is not None and self._folder.is_due())
        if self._kept and (asked or due or last):  # gathered from all, written by one
            tensors, losses = self._state.gather(), self._process.sum(losses.clone())
            if self._folder is not None:
                self._folder.write(
                    Progress(step=done, seconds=seconds, history=tuple(history), losses=losses, tensors=tensors)
                )
        if last:  # a signal that came while it was written, before what comes next no longer hears of it
            asked = self._process.any(asked or self._asked())[0]
        if asked:
            raise Stopped(done, kept=self._kept)

    def give_up(self) -> None:
        """Nothing is to go on from here."""
        if self._folder is not None:
            self._folder.remove()
