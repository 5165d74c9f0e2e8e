"""Tensors from a file that may be damaged, half of another one, or hostile. No pickle."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fasten_model.errors import DataError


def read_tensors(
    path: Path, digest: str, described_in: str, expected: dict[str, torch.Size] | None = None
) -> dict[str, Tensor]:
    """Tensors by name, once hash and finiteness have been checked, and names and shapes, where they are known, before
    any is read.

    digest: SHA-256 of the file, as the file named `described_in` says. Raises `DataError` where anything is amiss.
    """
    try:
        with path.open("rb") as file:
            found_digest = hashlib.file_digest(file, "sha256").hexdigest()
        if found_digest != digest:
            raise DataError(f"{path} is not the file that {described_in} describes; save the model again")
        with safe_open(path, framework="pt") as file:
            found = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if expected is not None and found != expected:
                odd = sorted({name for name, _ in found.items() ^ expected.items()})
                raise DataError(f"{path}: tensors do not fit trunk and classes ({', '.join(odd[:3])}); train again")
            tensors = {name: file.get_tensor(name) for name in found}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); save the model again") from error
    except SafetensorError as error:
        raise DataError(f"{path} is not a safetensors file ({error}); save the model again") from error
    try:
        finite = all(torch.isfinite(tensor).all() for tensor in tensors.values())
    except NotImplementedError as error:  # a type that no model is saved in
        raise DataError(f"{path} holds numbers of a strange type ({error}); save the model again") from error
    if not finite:
        raise DataError(f"{path} holds numbers that are not finite; train again with a lower learning rate")
    return tensors
