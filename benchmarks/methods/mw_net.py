"""MW-Net: Shu, Xie, Yi, Zhao, Zhou, Xu, Meng, "Meta-Weight-Net: Learning an Explicit Mapping for Sample Weighting",
NeurIPS 2019.

A small network V(ℓ; φ) (1 → 100 → 1, ReLU, sigmoid) turns an example's loss into its weight. Each step (equations 3
to 5, algorithm 1), with ℓ inside V a constant:

    θ' = θ − η ∇_θ 1/B Σ_i V(ℓ_i; φ) ℓ_i(θ)       the virtual step
    φ ← Adam on ∇_φ L_c(θ'(φ))                    the meta update
    descend 1/B Σ_i V(ℓ_i; φ) ℓ_i(θ)              with the new φ

Official code (xjtushujun/meta-weight-net): noisy and clean batches of 100, η the main SGD's rate (0.1, ÷10 twice),
Adam at 1e-3 with weight decay 1e-4 for V, as here. Deviations: the preset's trunk, batches and optimiser, with
`virtual_rate` where that is AdamW; the virtual and the main step share one forward (there a copy of the network sees
the same batch at the same θ, so the numbers are the same); our budgets have some thousand steps, theirs 60,000.
Passes per step: 2⅔ (main step 1, virtual gradient ⅔, derivative 1) and one over the clean batch.
"""

import torch
from torch import Tensor, nn

from benchmarks.methods.base import Observer, Outcome, Problem
from benchmarks.methods.meta_step import MetaStep, fresh, step_losses
from benchmarks.methods.virtual_step import descend, meta_gradient
from fasten_model.loss import cross_entropy
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, StepLosses

HIDDEN, META_LR, META_WEIGHT_DECAY = 100, 1e-3, 1e-4
"""The official code's."""


def weight_net() -> nn.Module:
    """V: losses [B,1] → weights in 0…1, [B,1]."""
    return nn.Sequential(nn.Linear(1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Sigmoid())


def weigh(net: nn.Module, losses: Tensor) -> Tensor:
    """V(ℓ) [B] of losses [B], which are constants to it."""
    weights: Tensor = net(losses.detach()[:, None])
    return weights.squeeze(1)


class MwNetStep(MetaStep):
    """V learns with the network."""

    def __init__(self, problem: Problem, config: TrainConfig) -> None:
        super().__init__(problem, config)
        self.net = fresh(weight_net, self.loop)
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=META_LR, weight_decay=META_WEIGHT_DECAY)
        self.weights = torch.zeros(len(self.noisy_labels), device=self.loop.device)
        """[N]: each example's weight at its last visit."""

    def __call__(self, batch: Batch) -> StepLosses:
        drawn, virtual = self.draw(batch), self.virtual
        _, logits = virtual.outputs(drawn.images)
        losses = cross_entropy(logits, drawn.labels)  # ℓ [B]
        weights = weigh(self.net, losses)

        ahead = virtual.look_ahead(virtual.gradient((weights.detach() * losses).mean()), drawn.rate)
        clean, v = virtual.clean_gradient(ahead, drawn.clean_images, drawn.clean_labels)
        slope = meta_gradient(
            lambda z: (weights * cross_entropy(z, drawn.labels)).mean(),
            logits,
            virtual.logit_derivative(drawn.images, v),
            drawn.rate,
            list(self.net.parameters()),
        )
        descend(self._optimizer, list(self.net.parameters()), slope)

        with torch.no_grad():
            after = weigh(self.net, losses)
        self.weights[drawn.index] = after
        return step_losses((after * losses).mean(), clean)

    def passes(self, clean_share: float) -> float:
        return 2 + 2 / 3 + clean_share


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Train by MW-Net; beliefs are the classifier's own p, T is not estimated."""
    return MwNetStep(problem, config).train(observer)
