"""Which device to compute on."""

import torch

from fasten_model.errors import DataError


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a GPU, else the CPU; any other name is torch's. `DataError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DataError(f"no device named {name!r}; use auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} GPUs; use auto or cpu"
        )
    try:
        usable = device.type != "meta" and torch.empty(0, device=device).numel() == 0
    except (RuntimeError, AssertionError, ImportError):  # torch knows the name, but has no such device here
        usable = False
    if not usable:
        raise DataError(f"device {name!r} is not available on this machine; use auto, cpu or cuda")
    return device
