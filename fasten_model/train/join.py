"""Meeting the other processes that `torchrun` has started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist

from fasten_model.train.process import ALONE, Process, SharedError, this_process

_TIMEOUT = timedelta(hours=1)
"""How long one waits for another: while the first decodes images, say. One that has died is noticed at once."""


@contextmanager
def joined_processes(device: str) -> Iterator[tuple[Process, str]]:
    """(this process among those that train together, the device that is its own of those called `device`).

    Reads what `torchrun` puts into the environment; without it this process is alone. Tensors on the CPU go by gloo,
    those on a GPU by NCCL. However it ends, the others are told. `SharedError` where they cannot meet.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield ALONE, device
        return
    _number("RANK", None)
    own = _own_device(device, _number("LOCAL_RANK", None), _number("LOCAL_WORLD_SIZE", 1))
    if own != "cpu":
        torch.cuda.set_device(own)
    backend = "gloo" if own == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:  # torch's own errors of networks and stores are RuntimeErrors
        reason = (str(error).splitlines() or [""])[0]
        raise SharedError(f"the other processes cannot be met ({reason}); start them with torchrun") from error
    try:
        yield this_process(), own
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise SharedError(
            f"{name} must be a number in the environment, got {text!r}; start the processes with torchrun"
        )
    return int(text)


def _own_device(device: str, rank: int, here: int) -> str:
    """The device of process `rank` of the `here` on this machine."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if device != "cuda":
        raise SharedError(f"several processes train on cuda or cpu, one device each, not on {device!r}")
    if here > torch.cuda.device_count():
        raise SharedError(
            f"{here} processes on this machine, but torch sees {torch.cuda.device_count()} GPUs; "
            "give --nproc-per-node that number, or --device cpu"
        )
    return f"cuda:{rank}"
