"""What training made of the very samples that it was trained on, so that their labels can be judged by it.

A network that has seen a wrong label often enough believes it. What it made of the sample at all its visits does not
(`fasten_model.stacking`), so that is kept with the model, by sample and label: with another label it would not hold.
An id must mean the same image as it did in training.

Shapes: n samples that were trained on, N that are asked about, K classes.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.stacking import Weights
from fasten_model.tensors_file import read_tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Visited:
    """The visits of n samples, and how they are weighed. They take 8 + 2·K bytes a sample."""

    keys: Tensor
    """int64 [n], ascending: hashes of (sample id, label)."""
    means: Tensor
    """float16 [n,K]: the mean of log p over the visits."""
    weights: Weights
    """Of the trained network, the visits, and what annotators said."""

    @classmethod
    def of(cls, sample_ids: Sequence[str], labels: Tensor, means: Tensor, weights: Weights) -> "Visited":
        """From different ids and their labels, int64 [n], with means [n,K] in their order."""
        keys, order = torch.sort(_keys(sample_ids, labels))
        return cls(keys=keys, means=means[order].half(), weights=weights)

    def find(self, sample_ids: Sequence[str], labels: Tensor) -> tuple[Tensor, Tensor]:
        """(which of N samples were trained on with that label, bool [N]; their means, float64 [N,K], 0 for others)."""
        if len(self.keys) == 0:
            return torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels), self.means.shape[1]).double()
        keys = _keys(sample_ids, labels)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        found = self.keys[place] == keys
        return found, torch.where(found[:, None], self.means[place].double(), 0)


def read_visited(path: Path, digest: str, described_in: str, weights: Weights, num_classes: int) -> Visited | None:
    """What a model keeps in `path`; None where it came without, as from a registry.

    digest, described_in: as for `read_tensors`. Raises `DataError` where the file is not of such a model.
    """
    if not path.exists():
        _log.info("%s is not there: the labels that the model was trained on are judged as any other's", path)
        return None
    tensors = read_tensors(path, digest, described_in)
    keys, means = tensors.get("keys"), tensors.get("means")
    if (
        keys is None
        or means is None
        or (keys.dtype, means.dtype, keys.ndim) != (torch.int64, torch.float16, 1)
        or means.shape != (len(keys), num_classes)
        or not bool((keys[1:] >= keys[:-1]).all())
        or bool((means > 0).any())
    ):
        raise DataError(f"{path} does not hold the visits of a model of {num_classes} classes; train again")
    return Visited(keys=keys, means=means, weights=weights)


def _keys(sample_ids: Sequence[str], labels: Tensor) -> Tensor:
    """int64 [N]: 64 bits of a hash of each id with its label."""
    keys = [
        int.from_bytes(
            hashlib.blake2b(f"{label} {sample_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest(),
            signed=True,
        )
        for sample_id, label in zip(sample_ids, labels.tolist(), strict=True)
    ]
    return torch.tensor(keys, dtype=torch.int64)
