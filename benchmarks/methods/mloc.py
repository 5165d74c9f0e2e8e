"""MLoC: Wang, Hu, Hu, "Training Noise-Robust Deep Neural Networks via Meta-Learning", CVPR 2020.

Forward correction under a T that is itself learnt, so that a step under it helps on clean samples. After a first part
of training by plain cross-entropy, each step:

    θ' = θ − η ∇_θ 1/B Σ_i −log (Tᵀp_i)[ȳ_i]      the virtual step, under the T there is
    T ← max(T − μ ∇_T L_c(θ'(T)), 0), then each row divided by its sum
    descend 1/B Σ_i −log (Tᵀp_i)[ȳ_i]             under the new T

Official code (ZhenWang-PhD/Training-Noise-Robust-Deep-Neural-Networks-via-Meta-Learning): WRN-40-2, batch 64 and all
clean samples, 30,000 steps of cross-entropy and 50,000 of the above, μ = 0.11, and losses summed at η = 1e-3, which is
0.064 for means. There T starts from the identity again in every step, columns are what is divided, and T is applied to
logits; the paper and FasTEN's tables (which report the T of MLoC) mean one T that is kept, row-stochastic, on
probabilities: so here. Other deviations: the preset's trunk, batches, optimiser and schedule; η is `virtual_rate`; T is
smoothed by 1e-3 inside the logarithm.
Passes per step: 1 in the first ⅜ of training, then 2⅔ (main step 1, virtual gradient ⅔, derivative 1) and one over the
clean batch.
"""

import torch
from torch import Tensor

from benchmarks.methods.base import Observer, Outcome, Problem
from benchmarks.methods.meta_step import MetaStep, step_losses
from benchmarks.methods.virtual_step import meta_gradient
from fasten_model.loss import cross_entropy, forward_loss
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, StepLosses
from fasten_model.transition import identity_transition, smooth_transition

WARM_UP = 3 / 8
"""Share of the steps that is plain cross-entropy: the official 30,000 of 80,000."""
TRANSITION_LR = 0.11
"""μ, the official one."""
SMOOTHING = 1e-3


class MlocStep(MetaStep):
    """T learns with the network."""

    def __init__(self, problem: Problem, config: TrainConfig) -> None:
        super().__init__(problem, config)
        self.transition = identity_transition(problem.num_classes, device=self.loop.device)

    def __call__(self, batch: Batch) -> StepLosses:
        if batch.step < WARM_UP * batch.steps:
            images, labels = self.noisy(batch)
            loss = cross_entropy(self.virtual.outputs(images)[1], labels).mean()
            return step_losses(loss, torch.zeros_like(loss.detach()))

        drawn, virtual = self.draw(batch), self.virtual
        _, logits = virtual.outputs(drawn.images)
        before = self.transition.clone().requires_grad_()

        def loss_under(transition: Tensor, z: Tensor) -> Tensor:
            return forward_loss(z, drawn.labels, smooth_transition(transition, SMOOTHING)).mean()

        ahead = virtual.look_ahead(virtual.gradient(loss_under(self.transition, logits)), drawn.rate)
        clean, v = virtual.clean_gradient(ahead, drawn.clean_images, drawn.clean_labels)
        (slope,) = meta_gradient(
            lambda z: loss_under(before, z),
            logits,
            virtual.logit_derivative(drawn.images, v),
            drawn.rate,
            [before],
        )
        self.transition = row_stochastic(self.transition - TRANSITION_LR * slope)
        return step_losses(loss_under(self.transition, logits), clean)

    def metrics(self) -> tuple[Tensor, Tensor]:
        return torch.zeros((), device=self.loop.device), self.transition.diagonal().mean()

    def learnt_transition(self) -> Tensor:
        return self.transition.cpu()

    def passes(self, clean_share: float) -> float:
        return WARM_UP + (1 - WARM_UP) * (2 + 2 / 3 + clean_share)


def row_stochastic(matrix: Tensor) -> Tensor:
    """[K,K]: negative entries to 0, then each row divided by its sum; a row with nothing left becomes uniform."""
    kept = matrix.clamp(min=0)
    sums = kept.sum(dim=1, keepdim=True)
    least = torch.finfo(kept.dtype).tiny
    return torch.where(sums > least, kept / sums.clamp(min=least), 1 / kept.shape[1])


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Train by MLoC; beliefs are the classifier's own p, the transition is the T learnt."""
    return MlocStep(problem, config).train(observer)
