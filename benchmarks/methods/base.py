"""What a method of the harness is given and what it must leave.

Shapes: N noisy samples, C clean ones, K classes, R annotators, S image side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One draw of one cell: the same for every method."""

    noisy_images: Tensor
    """uint8 [N,3,S,S]."""
    noisy_labels: Tensor
    """int64 [N]: as the annotators gave them."""
    clean_images: Tensor
    """uint8 [C,3,S,S]."""
    clean_labels: Tensor
    """int64 [C]: true."""
    clean_given: Tensor
    """int64 [C]: the label that the audited sample had before its audit; −1 where it had none."""
    votes: Tensor | None = None
    """int64 [N,R]: each annotator's answer, −1 where there is none; None: there is one label a sample."""
    clean_votes: Tensor | None = None
    """int64 [C,R]: what they had said of the audited samples; None: not known."""
    num_classes: int


Observer = Callable[[int, nn.Module], None]
"""Called with (epoch from 1, the network that would be used if training ended here: images → (clean, noisy) logits)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a method has learnt."""

    network: nn.Module
    """In evaluation mode: normalised images → (clean logits, noisy logits), [B,K] each."""
    beliefs: Tensor
    """[N,K]: what the method believes the true label of each noisy sample to be; rows sum to 1."""
    transition: Tensor | None
    """T̂ [K,K] of the original labels, T[i,j] = p(given=j | true=i); None where the method estimates none."""
    passes: float
    """Images through the trunk, forward and backward each, in all of training, ÷ those of plain training on the noisy
    set for the same epochs: plain cross-entropy is 1."""
    transition_of: Tensor | None = None
    """int64 [N]: the labels that T̂ is of, where these are not the original ones but as the method has corrected them
    (the paper's T̂); its error is measured against theirs. None: the original ones."""
    temperature: float = 1.0
    """What the clean head's logits are divided by, where the method calibrates: p is their softmax."""


Method = Callable[[Problem, TrainConfig, Observer | None], Outcome]


def beliefs_of(network: nn.Module, images: Tensor) -> Tensor:
    """softmax of the clean head on uint8 images [N,3,S,S]: [N,K] on the CPU."""
    return torch.softmax(predict_logits(network, images)[0], dim=1)
