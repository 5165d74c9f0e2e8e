"""What training made of the very samples that it was trained on, so that their labels can be judged by it.

A network that has seen a wrong label often enough believes it. What it made of the sample at all its visits does not
(`fasten_model.stacking`), so that is kept with the model, by sample and label: with another label it would not hold.
An id must mean the same image as it did in training.

Shapes: n samples that were trained on, N that are asked about, K classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.stacking import Weights


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
