"""A trunk's weights from a local file: safetensors, or what `torch.save` wrote, of which only tensors are read."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fasten_model.errors import DataError

_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_HEADS = {"fc", "head", "heads", "classifier", "aux1", "aux2", "AuxLogits", "clean_head", "noisy_head", "transition"}
"""First parts of names that belong to a classifier wherever the trunk itself has no such tensor."""
_COUNTER = "num_batches_tracked"
"""BatchNorm's count of steps, which old files lack; nothing that we compute reads it."""


def load_trunk_weights(trunk: nn.Module, path: Path, *, trunk_name: str) -> None:
    """Copy the weights in `path` into `trunk`, all of them or none.

    The file holds tensors by the trunk's own names, or below `state_dict` or `model`, with `module.` (DistributedData
    Parallel) or `trunk.` (a model of ours) before each name or not. A classifier's tensors are ignored.
    Raises `DataError` if the file cannot be read, or a tensor is missing, unknown, of another shape or not finite.
    """
    found = _without_prefixes(_read(path))
    wanted = trunk.state_dict()
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    unknown = [name for name in found if name not in wanted and not _is_classifier(trunk, name)]
    misshapen = [
        f"{name} {list(found[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    complaints = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("of another shape", misshapen), ("unknown", unknown))
        if names
    ]
    if complaints:
        raise DataError(f"{path} does not fit trunk {trunk_name}: tensors {'; '.join(complaints)}")
    chosen = {name: found.get(name, tensor) for name, tensor in wanted.items()}
    for name, tensor in chosen.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: {name} holds numbers that are not finite; take another file")
    trunk.load_state_dict(chosen)


def _read(path: Path) -> dict[str, Tensor]:
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        elif path.suffix in _TORCH_SUFFIXES:
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise DataError(f"{path}: weights are read from .safetensors, {', '.join(_TORCH_SUFFIXES)} files only")
    except OSError as error:
        raise DataError(f"trunk weights {path} cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors, or is no file of torch's; save a state_dict, best as safetensors"
        ) from error
    except DataError:
        raise
    except Exception as error:  # bytes that are no such file fail in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path} is not a sound weights file ({reason})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path} holds no tensors by name; save the trunk's state_dict()")
    return {str(name): tensor for name, tensor in content.items()}


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the trunk has them."""
    for prefix in ("module.", "trunk."):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _is_classifier(trunk: nn.Module, name: str) -> bool:
    """Whether a tensor that the trunk lacks sat in its classifier: an identity is there now, or its name says so."""
    try:
        if isinstance(trunk.get_submodule(name.rpartition(".")[0]), nn.Identity):
            return True
    except AttributeError:
        pass
    return name.split(".")[0] in _HEADS
