"""Which device to compute on, and what to say when its memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fasten_model.errors import DataError


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a GPU, else the CPU; any other name is torch's. `DataError` if it is not there.

    The device is named as a tensor on it names it, `cuda` with the number of the current one: `cuda` and `cuda:0` are
    not equal, and what lies on the one would be copied to the other.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DataError(f"no device named {name!r}; use auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} GPUs; use auto or cpu"
        )
    try:
        there = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError):  # torch knows the name, but has no such device here
        there = None
    if there is None or there.type == "meta":
        raise DataError(f"device {name!r} is not available on this machine; use auto, cpu or cuda")
    return there


@contextmanager
def enough_memory(*, otherwise: str) -> Iterator[None]:
    """`DataError` where a GPU's memory does not suffice for what is done within. otherwise: what the reader can do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).partition("\n")[0]
        said = ". ".join(first.split(". ")[:3])  # what was asked for, of which GPU, how much of it is free
        raise DataError(f"the GPU's memory does not suffice: {said}; {otherwise}") from error
