"""FasTEN's training (Kye et al., ECCV 2022): its step (`fasten_step`) in the one loop, and what that leaves.

Shapes: N noisy samples, B of them in a batch, K classes, R annotators, S image side, D features.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fasten_model.device import enough_memory
from fasten_model.errors import DataError
from fasten_model.network import TwoHeadNetwork
from fasten_model.predict import predict_logits
from fasten_model.stacking import Weights
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.train.config import TrainConfig
from fasten_model.train.fasten_step import FastenStep
from fasten_model.train.fingerprint import open_checkpoint
from fasten_model.train.loop import SMALLER, Loop
from fasten_model.train.metrics import EpochMetrics, OnEpoch
from fasten_model.train.process import this_process
from fasten_model.train.stopping import Stop
from fasten_model.train.training_set import TrainingSet
from fasten_model.transition import estimate_transition, identity_transition

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What training leaves."""

    network: TwoHeadNetwork
    """On the CPU, in evaluation mode."""
    transition: Tensor
    """T̂ [K,K], rows sum to 1: of the original labels; of the labels *as corrected* where the noisy head learns those
    and T̂ comes from clean batches (the reference), then from every estimating clean sample in evaluation mode."""
    transitions: Tensor
    """T̂ [R,K,K] of every annotator that is told apart; else `transition` alone."""
    corrected_labels: Tensor
    """int64 [N]: what the last visit's correction left of each label."""
    history: tuple[EpochMetrics, ...]
    visits: Tensor | None = None
    """[N,K]: the mean of log p over each noisy sample's visits (`fasten_model.train.visits`), where the method keeps
    them."""
    weights: Weights = field(default_factory=Weights)
    """Of q, as training last had them."""


@enough_memory(otherwise=SMALLER)
def train(
    training_set: TrainingSet,
    config: TrainConfig,
    *,
    on_epoch: OnEpoch | None = None,
    observer: Callable[[int, nn.Module], None] | None = None,
    trunk: nn.Module | None = None,
    checkpoint: CheckpointConfig | None = None,
    stop: Stop | None = None,
) -> Trained:
    """Train FasTEN; `on_epoch` hears of each epoch as it ends, `observer` is shown the network as it is then.

    trunk: a module that maps images [B,3,S,S] to features [B,D]; a copy is trained in place of the one in `config`.
    checkpoint: where progress is kept, and taken up again where there is some of the same training; it stays until
    `remove_checkpoint`. stop: see `Loop.run`. Where `torch.distributed` is initialised, all its processes train
    together, each on its share of every batch, and get the same result.
    On a CPU the same seed gives the same result. Raises DataError if the loss, or what the trained network says, is
    not finite, or nothing teaches the noisy head that T̂ comes from.
    """
    method = config.switches()
    if not method.counts_bulk and method.noisy_loss_weight is None and training_set.held_out_labels is None:
        raise DataError(
            f"T̂ by estimator {method.estimator} is what the noisy head says, and nothing teaches it: hold audited "
            "samples out, or set noisy_loss_weight to 0.5"
        )
    unseen = training_set.classes_without_estimate()
    if unseen:
        _log.warning(
            "%d of %d classes have no sample audited at random (first: class %d); their labels are taken to be right",
            len(unseen),
            training_set.num_classes,
            unseen[0],
        )
    process = this_process()
    loop = Loop(config, training_set.num_classes, trunk=trunk, process=process)
    step = FastenStep(loop, training_set, config)
    history = loop.run(
        step,
        noisy_images=training_set.noisy_images,
        clean_images=training_set.clean_images,
        clean_groups=step.clean_groups,
        on_epoch=on_epoch,
        observer=observer,
        checkpoint=None
        if checkpoint is None
        else open_checkpoint(checkpoint, config, training_set, loop.network, process),
        stop=stop,
    )
    transition = (
        _final_transition(loop.scoring_network(), training_set) if method.of_corrected else step.estimate.shared().cpu()
    )
    return Trained(
        network=loop.trained_network(),
        transition=transition,
        transitions=step.estimate.each().cpu(),
        corrected_labels=step.corrected_labels(),
        history=history,
        visits=step.visits(),
        weights=step.weights,
    )


def _final_transition(network: TwoHeadNetwork, training_set: TrainingSet) -> Tensor:
    """T̂ from all estimating clean samples at once: [K,K], on the CPU."""
    audited = training_set.clean_estimates.cpu()
    _, noisy_logits = predict_logits(network, training_set.clean_images[audited])
    clean_labels = training_set.clean_labels.cpu()[audited]
    prior = identity_transition(training_set.num_classes)
    return estimate_transition(prior, noisy_logits, clean_labels, torch.ones(len(clean_labels), dtype=torch.bool))
