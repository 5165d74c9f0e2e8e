"""Whether labels that are said to be wrong with probability x are wrong in x of the cases."""

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """Samples by predicted probability in BINS bins of equal width: b/BINS ≤ x < (b+1)/BINS. [BINS] each."""

    count: Tensor
    """int64: samples."""
    predicted: Tensor
    """float64: sum of what was predicted."""
    wrong: Tensor
    """int64: those that came true."""

    def expected_error(self) -> float | None:
        """Σ_b |B_b|/n · |mean predicted − share that came true|; None of no samples."""
        total = int(self.count.sum())
        return float((self.predicted - self.wrong).abs().sum() / total) if total else None


def reliability(predicted: Tensor, happened: Tensor) -> Reliability:
    """predicted float [n] in 0…1; happened bool [n]."""
    place = (predicted.double() * BINS).floor().long().clamp(0, BINS - 1)
    return Reliability(
        count=torch.bincount(place, minlength=BINS),
        predicted=torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, predicted.double()),
        wrong=torch.bincount(place[happened], minlength=BINS),
    )
