"""What training made of the very samples that it was trained on, so that their labels can be judged by it.

A network that has seen a wrong label often enough believes it. What it made of the sample at all its visits does not
(`fasten_model.stacking`), so that is kept with the model. A sample is known again by its id, its label and its image:
with another label it would not hold, and another set may well use the same ids, as row numbers are.

Shapes: n samples that were trained on, N that are asked about, K classes, S image side.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.images.source import Images, in_memory
from fasten_model.stacking import Weights
from fasten_model.tensors_file import read_tensors

_log = logging.getLogger(__name__)

KEYED_BY = "sample, label, image"
"""What a model's description says of its keys. The first ones were of sample and label alone, and said nothing."""
_AT_ONCE = 256
"""Images in memory at a time while they are hashed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Visited:
    """The visits of n samples, and how they are weighed. They take 8 + 2·K bytes a sample."""

    keys: Tensor
    """int64 [n], ascending: hashes of (sample id, label, image)."""
    means: Tensor
    """float16 [n,K]: the mean of log p over the visits."""
    weights: Weights
    """Of the trained network, the visits, and what annotators said."""

    @classmethod
    def of(
        cls, sample_ids: Sequence[str], labels: Tensor, images: Tensor | Images, means: Tensor, weights: Weights
    ) -> "Visited":
        """From different ids, their labels, int64 [n], and images, uint8 [n,3,S,S], with means [n,K] in their order."""
        keys, order = torch.sort(_keys(sample_ids, labels, images))
        return cls(keys=keys, means=means[order].half(), weights=weights)

    def find(self, sample_ids: Sequence[str], labels: Tensor, images: Tensor | Images) -> tuple[Tensor, Tensor]:
        """(which of N samples were trained on with that label, bool [N]; their means, float64 [N,K], 0 for others).

        images: uint8 [N,3,S,S], each of which is read once.
        """
        if len(self.keys) == 0:
            return torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels), self.means.shape[1]).double()
        keys = _keys(sample_ids, labels, images)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        found = self.keys[place] == keys
        return found, torch.where(found[:, None], self.means[place].double(), 0)


def read_visited(
    path: Path, digest: str, described_in: str, weights: Weights, num_classes: int, *, keyed_by: object
) -> Visited | None:
    """What a model keeps in `path`; None where it came without, as from a registry, or with keys of another form.

    digest, described_in: as for `read_tensors`. keyed_by: what the description says of the keys. Raises `DataError`
    where the file is not of such a model.
    """
    if not path.exists():
        _log.info("%s is not there: the labels that the model was trained on are judged as any other's", path)
        return None
    if keyed_by != KEYED_BY:
        _log.info(
            "%s tells samples in another way than this version: the labels that the model was trained on are judged as "
            "any other's until it is trained again",
            path,
        )
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


def _keys(sample_ids: Sequence[str], labels: Tensor, images: Tensor | Images) -> Tensor:
    """int64 [N]: 64 bits of a hash of each image with its label and id."""
    keys = []
    for sample_id, label, image in zip(sample_ids, labels.tolist(), _bytes_of(images), strict=True):
        key = hashlib.blake2b(image, digest_size=8)  # first, as all are of one length: no id can pass for pixels
        key.update(f"{label} {sample_id}".encode("utf-8", "surrogatepass"))
        keys.append(int.from_bytes(key.digest(), signed=True))
    return torch.tensor(keys, dtype=torch.int64)


def _bytes_of(images: Tensor | Images) -> Iterator[memoryview]:
    """uint8 images [N,3,S,S] → the 3·S·S bytes of one after the other."""
    for start in range(0, len(images), _AT_ONCE):
        some = in_memory(images[start : start + _AT_ONCE]).cpu()
        yield from (image.data for image in some.contiguous().flatten(start_dim=1).numpy())
