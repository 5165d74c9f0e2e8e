"""What most baselines are made of: plain cross-entropy on a set of labelled samples; and what training costs.

Shapes: N noisy samples, C clean ones, K classes, S image side.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.methods.base import Observer, Problem
from fasten_model.device import resolve_device
from fasten_model.network import TwoHeadNetwork
from fasten_model.train import PAPER, TrainConfig, train_cross_entropy

FORWARD_ONLY = 1 / 3
"""What a forward pass alone costs, in passes forward and backward: the backward pass takes two matrix products for
each of the forward's."""


def without_remedies(config: TrainConfig) -> TrainConfig:
    """`config` with nothing of our own FasTEN in it (averaged weights): a baseline is as its authors published it."""
    return replace(config, method=PAPER)


def train_plain(
    images: Tensor, labels: Tensor, num_classes: int, config: TrainConfig, observer: Observer | None = None
) -> TwoHeadNetwork:
    """Cross-entropy of the clean head on uint8 [M,3,S,S] and int64 [M]: the network, evaluating, on the device."""
    trained = train_cross_entropy(images, labels, num_classes, without_remedies(config), observer=observer)
    return trained.network.to(resolve_device(config.device))


def with_clean(problem: Problem, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(images, labels) of the noisy samples followed by the clean ones: [N+C]; of the noisy ones only those `kept`.

    kept: bool [N].
    """
    images, labels = problem.noisy_images, problem.noisy_labels
    if kept is not None:
        images, labels = images[kept], labels[kept]
    return torch.cat([images, problem.clean_images]), torch.cat([labels, problem.clean_labels])


def passes(problem: Problem, config: TrainConfig, *, trained: Sequence[int], predicted: int = 0) -> float:
    """`Outcome.passes` of trainings on so many samples each, for `config`'s epochs, and of so many predictions."""
    count, epochs = len(problem.noisy_labels), config.settings().epochs
    return (sum(trained) + FORWARD_ONLY * predicted / epochs) / count
