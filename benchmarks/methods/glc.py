"""GLC, Gold Loss Correction: Hendrycks, Mazeika, Wilson and Gimpel, "Using Trusted Data to Train Deep Networks on
Labels Corrupted by Severe Noise", NeurIPS 2018, algorithm 1. Consulted: github mmazeika/glc, `CIFAR/train_ours.py`.

1. Train on the noisy labels with cross-entropy.
2. Ĉ[i] = mean softmax over the trusted samples of class i, in evaluation mode and without augmentation.
3. Start again from the same initial weights: −log (Ĉᵀp)[ȳ] for noisy samples, cross-entropy for trusted ones, all in
   one shuffled set, each visited once an epoch.

Deviations: trunk, schedule and augmentation are the harness' own; Ĉ is smoothed by 1e-6 (theirs may take the log of 0);
a class without a trusted sample keeps the identity's row (theirs is then NaN).
"""

import torch
from torch import Tensor

from benchmarks.methods.base import Observer, Outcome, Problem, beliefs_of
from benchmarks.methods.plain import passes, train_plain, with_clean, without_remedies
from fasten_model.loss import forward_loss
from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, StepLosses, TrainingStep
from fasten_model.train.loop import Loop
from fasten_model.transition import estimate_transition, identity_transition, smooth_transition

SMOOTHING = 1e-6


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Passes: 2 + C/N and one look at the trusted samples. The observer sees the second training only."""
    count, num_classes = len(problem.noisy_labels), problem.num_classes
    first = train_plain(problem.noisy_images, problem.noisy_labels, num_classes, config)
    trusted_logits, _ = predict_logits(first, problem.clean_images)
    everyone = torch.ones(len(problem.clean_labels))
    transition = estimate_transition(
        identity_transition(num_classes), trusted_logits, problem.clean_labels, everyone
    )  # Ĉ

    images, labels = with_clean(problem)
    trusted = torch.arange(len(labels)) >= count
    loop = Loop(without_remedies(config), num_classes)
    loop.run(GoldStep(loop, labels, trusted, transition), noisy_images=images, observer=observer)
    network = loop.trained_network().to(loop.device)
    return Outcome(
        network=network,
        beliefs=beliefs_of(network, problem.noisy_images),
        transition=transition,
        passes=passes(problem, config, trained=[count, len(labels)], predicted=len(problem.clean_labels)),
    )


class GoldStep(TrainingStep):
    """The forward correction under Ĉ where the label is not trusted, cross-entropy where it is.

    Both are one loss: a trusted label j counts as observation K + j, which under [Ĉ | I], [K,2K], only class j makes.

    labels int64 [M], trusted bool [M], transition [K,K]: Ĉ.
    """

    def __init__(self, loop: Loop, labels: Tensor, trusted: Tensor, transition: Tensor) -> None:
        num_classes = len(transition)
        self._loop = loop
        self._observed = torch.where(trusted, labels + num_classes, labels).to(loop.device)
        told = [smooth_transition(transition, SMOOTHING), identity_transition(num_classes)]
        self._transition = torch.cat(told, dim=1).to(loop.device)

    def __call__(self, batch: Batch) -> StepLosses:
        clean_logits, _ = self._loop.forward(self._loop.inputs(batch.noisy, batch.step, "noisy"))
        loss = forward_loss(clean_logits, self._observed[batch.noisy.index], self._transition).mean()
        zero = torch.zeros_like(loss)
        return StepLosses(total=loss, forward=loss.detach(), clean=zero, noisy=zero)
