"""Random numbers as a function of (seed, purpose, step): nothing hidden to save, the same in every process."""

import hashlib

import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose: 63 bits of a hash."""
    digest = hashlib.blake2b("/".join(map(str, (seed, *purpose))).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` that starts at `derived_seed`."""
    return torch.Generator(device).manual_seed(derived_seed(seed, *purpose))
