"""The transition matrix T̂ from one mini-batch of clean samples (Kye et al., ECCV 2022: T̂ in one forward pass).

Shapes: B noisy batch, C clean batch, K classes. T[i,j] = p(ȳ=j | y=i); rows sum to 1.
"""

import torch
from torch import Tensor


def identity_transition(num_classes: int, *, device: torch.device | None = None) -> Tensor:
    """T = I [K,K]: every label is right. The row of a class of which no clean sample has been seen yet."""
    return torch.eye(num_classes, device=device)


def estimate_transition(previous: Tensor, noisy_logits: Tensor, clean_labels: Tensor, estimates: Tensor) -> Tensor:
    """T̂[i] = mean over the clean samples with y = i of softmax(θ̄(φ(x))), detached.

    By label, so the order of the batch does not matter. Rows sum to 1.

    previous [K,K]: keeps its row where the batch has no sample of that class. noisy_logits [C,K]: noisy head on clean
    images. clean_labels int64 [C]: y. estimates bool [C]: False for samples that were not drawn at random (reviews of
    what the model was unsure about), which would bias T̂.
    """
    probabilities = torch.softmax(noisy_logits.detach().float(), dim=1)  # [C, K]
    weight = estimates.to(probabilities.dtype)  # [C]
    num_classes = previous.shape[0]
    sums = probabilities.new_zeros(num_classes, num_classes)
    sums.index_add_(0, clean_labels, probabilities * weight[:, None])
    counts = probabilities.new_zeros(num_classes).index_add_(0, clean_labels, weight)[:, None]  # [K, 1]
    return torch.where(counts > 0, sums / counts.clamp(min=1), previous)


def smooth_transition(transition: Tensor, smoothing: float) -> Tensor:
    """T ← (1−δ)T + δ/K: every entry positive, so log T is finite; rows [K,K] still sum to 1."""
    return (1 - smoothing) * transition + smoothing / transition.shape[1]
