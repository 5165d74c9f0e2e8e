"""FasTEN's training (Kye et al., ECCV 2022) and its plain baseline, as steps of the one loop.

Shapes: N noisy samples and C clean ones, B and D their batches, K classes, S image side.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.correction import correct_labels
from fasten_model.loss import cross_entropy, fasten_loss, forward_loss
from fasten_model.network import TwoHeadNetwork
from fasten_model.predict import predict_logits
from fasten_model.train.config import TrainConfig
from fasten_model.train.loop import EpochMetrics, Loop, OnEpoch, StepLosses
from fasten_model.train.training_set import TrainingSet, check_images, check_labels
from fasten_model.transition import estimate_transition, identity_transition, smooth_transition

__all__ = ["EpochMetrics", "OnEpoch", "TrainConfig", "Trained", "TrainingSet", "train", "train_cross_entropy"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What training leaves."""

    network: TwoHeadNetwork
    """On the CPU, in evaluation mode."""
    transition: Tensor
    """T̂ [K,K] of the labels *as corrected*, from every estimating clean sample in evaluation mode; rows sum to 1.
    T of the original labels: `fasten_model.posterior.soft_count_transition`."""
    corrected_labels: Tensor
    """int64 [N]: what the last visit's correction left of each label."""
    history: tuple[EpochMetrics, ...]


def train(training_set: TrainingSet, config: TrainConfig, *, on_epoch: OnEpoch | None = None) -> Trained:
    """Train FasTEN; `on_epoch` hears of each epoch as it ends.

    On a CPU the same seed gives the same result. Raises DataError if the loss stops being finite.
    """
    unseen = training_set.classes_without_estimate()
    if unseen:
        _log.warning(
            "%d of %d classes have no sample audited at random (first: class %d); their labels are taken to be right",
            len(unseen),
            training_set.num_classes,
            unseen[0],
        )
    loop = Loop(config, training_set.num_classes)
    data = training_set.to(loop.device)
    original_labels = data.noisy_labels  # ȳ*, never written to
    labels = original_labels.clone()  # ȳ: the correction written at the sample's previous visit
    transition = identity_transition(data.num_classes, device=loop.device)
    clean_batches = _clean_batches(loop, data.clean_estimates)

    def step(index: Tensor) -> StepLosses:
        nonlocal transition
        clean_index = next(clean_batches)
        noisy_labels, clean_labels = labels[index], data.clean_labels[clean_index]  # ȳ [B], y [D]

        # Two forwards, as the reference has it: each batch has BatchNorm statistics of its own.
        clean_logits, noisy_logits = loop.forward(data.noisy_images[index])  # θ(φ(x̄)), θ̄(φ(x̄)): [B, K]
        clean_logits_d, noisy_logits_d = loop.forward(data.clean_images[clean_index])  # θ(φ(x)), θ̄(φ(x)): [D, K]

        estimates = data.clean_estimates[clean_index]
        transition = estimate_transition(transition, noisy_logits_d, clean_labels, estimates)  # T̂
        forward = forward_loss(clean_logits, noisy_labels, smooth_transition(transition, config.smoothing))
        clean = cross_entropy(clean_logits_d, clean_labels)
        noisy = cross_entropy(noisy_logits, noisy_labels)  # over noisy samples only

        p = torch.softmax(clean_logits.detach().float(), dim=1)
        labels[index] = correct_labels(p, original_labels[index], config.rho)  # trained on at the next visit
        return StepLosses(
            total=fasten_loss(forward, clean, noisy, config.noisy_loss_weight),
            forward=forward.mean(),
            clean=clean.mean(),
            noisy=noisy.mean(),
        )

    def state() -> tuple[Tensor, Tensor]:
        return (labels != original_labels).float().mean(), transition.diagonal().mean()

    history = loop.run(len(labels), step, state, on_epoch)
    return Trained(
        network=loop.network.cpu().eval(),
        transition=_final_transition(loop.network, training_set),
        corrected_labels=labels.cpu(),
        history=history,
    )


def _clean_batches(loop: Loop, estimates: Tensor) -> Iterator[Tensor]:
    """Endless clean batches D, at least half of each audited at random where there is anything else.

    T̂ is estimated from these alone: drawn from all clean samples together, a growing pile of reviews would crowd them
    out of the batch. `estimates`: bool [C].
    """
    audited, reviewed = estimates.nonzero().flatten(), (~estimates).nonzero().flatten()
    size = loop.settings.clean_batch
    if len(audited) == 0 or len(reviewed) == 0:
        yield from loop.cycle(len(estimates), size)
    share = min(size - 1, max(math.ceil(size / 2), round(size * len(audited) / len(estimates))))
    for first, second in zip(loop.cycle(len(audited), share), loop.cycle(len(reviewed), size - share), strict=True):
        yield torch.cat([audited[first], reviewed[second]])


def _final_transition(network: TwoHeadNetwork, training_set: TrainingSet) -> Tensor:
    """T̂ from all estimating clean samples at once: [K,K], on the CPU."""
    audited = training_set.clean_estimates.cpu()
    _, noisy_logits = predict_logits(network, training_set.clean_images.cpu()[audited])
    clean_labels = training_set.clean_labels.cpu()[audited]
    prior = identity_transition(training_set.num_classes)
    return estimate_transition(prior, noisy_logits, clean_labels, torch.ones(len(clean_labels), dtype=torch.bool))


def train_cross_entropy(
    images: Tensor, labels: Tensor, num_classes: int, config: TrainConfig, *, on_epoch: OnEpoch | None = None
) -> Trained:
    """Plain cross-entropy of the clean head on uint8 images [N,3,S,S] and int64 labels [N], taken as they are.

    The baseline: trunk, loop, schedule and augmentation of `train`; no transition, no correction.
    """
    check_images("training images", images)
    check_labels("training labels", labels, len(images), num_classes)
    loop = Loop(config, num_classes)
    images_on_device, labels_on_device = images.to(loop.device), labels.to(loop.device)
    zero, one = torch.zeros((), device=loop.device), torch.ones((), device=loop.device)

    def step(index: Tensor) -> StepLosses:
        clean_logits, _ = loop.forward(images_on_device[index])  # [B, K]
        loss = cross_entropy(clean_logits, labels_on_device[index]).mean()
        return StepLosses(total=loss, forward=zero, clean=loss, noisy=zero)

    history = loop.run(len(labels), step, lambda: (zero, one), on_epoch)
    return Trained(
        network=loop.network.cpu().eval(),
        transition=identity_transition(num_classes),
        corrected_labels=labels.detach().clone().cpu(),
        history=history,
    )
