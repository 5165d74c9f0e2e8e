"""Plain cross-entropy, the baseline: trunk, loop, schedule and augmentation of FasTEN's training, nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fasten_model.checks import check_labels
from fasten_model.device import enough_memory
from fasten_model.loss import cross_entropy
from fasten_model.train.batch import Batch, StepLosses, TrainingStep
from fasten_model.train.config import TrainConfig
from fasten_model.train.fasten import Trained
from fasten_model.train.loop import SMALLER, Loop
from fasten_model.train.metrics import OnEpoch
from fasten_model.train.process import this_process
from fasten_model.train.training_set import check_more_than_one, check_some_images
from fasten_model.transition import identity_transition


class CrossEntropyStep(TrainingStep):
    """−log softmax(θ(φ(x)))[label] of labels int64 [N], taken as they are."""

    def __init__(self, loop: Loop, labels: Tensor) -> None:
        self._loop = loop
        self._labels = loop.process.own(labels).to(loop.device)
        loop.network.noisy_head.requires_grad_(False)  # several processes would wait for its gradient

    def __call__(self, batch: Batch) -> StepLosses:
        clean_logits, _ = self._loop.forward(self._loop.inputs(batch.noisy, batch.step, "noisy"))  # [B, K]
        loss = cross_entropy(clean_logits, self._labels[batch.noisy.index]).sum() / batch.noisy.size
        zero = torch.zeros_like(loss)
        return StepLosses(total=loss, forward=zero, clean=loss.detach(), noisy=zero)


@enough_memory(otherwise=SMALLER)
def train_cross_entropy(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    config: TrainConfig,
    *,
    on_epoch: OnEpoch | None = None,
    observer: Callable[[int, nn.Module], None] | None = None,
) -> Trained:
    """Plain cross-entropy of the clean head on uint8 images [N,3,S,S] and int64 labels [N]."""
    check_some_images("training images", images)
    check_labels("training labels", labels, len(images), num_classes)
    check_more_than_one(len(images))
    loop = Loop(config, num_classes, process=this_process())
    history = loop.run(CrossEntropyStep(loop, labels), noisy_images=images, on_epoch=on_epoch, observer=observer)
    identity = identity_transition(num_classes)
    return Trained(
        network=loop.trained_network(),
        transition=identity,
        transitions=identity[None],
        corrected_labels=labels.detach().clone().cpu(),
        history=history,
    )
