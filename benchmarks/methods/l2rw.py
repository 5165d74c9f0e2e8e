"""L2RW: Ren, Zeng, Yang, Urtasun, "Learning to Reweight Examples for Robust Deep Learning", ICML 2018.

Each noisy example of a batch is weighed by whether a step on it would lower the clean loss (the paper's algorithm 1,
equations 4 to 7):

    ε = 0,   θ' = θ − η ∇_θ Σ_i ε_i ℓ_i(θ) = θ,   u_i = −∂L_c(θ')/∂ε_i = η ⟨∇ℓ_i(θ), ∇L_c(θ)⟩
    w_i = max(u_i, 0) / Σ_j max(u_j, 0)   (all 0 where no u_j is above 0)
    descend Σ_i w_i ℓ_i(θ)

With ε = 0 the look-ahead stays at θ and η cancels in w, so the virtual step needs neither a pass nor a rate of its own:
u comes from one clean gradient and one forward derivative along it, ∇ℓ_i·v = (p_i − y_i)·ż_i.

Official code (uber-research/learning-to-reweight-examples): ResNet-32 or WRN-28-10, noisy batch 100, SGD 0.1 with
momentum. Here: the preset's trunk, batches and optimiser; the same augmented batch for weights and descent (as there).
Passes per step: 2 (main step 1, derivative 1) and one over the clean batch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.methods.base import Observer, Outcome, Problem
from benchmarks.methods.meta_step import MetaStep, step_losses
from fasten_model.loss import cross_entropy
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, StepLosses


class L2rwStep(MetaStep):
    """Weights anew in every step; nothing is learnt but the network."""

    def __init__(self, problem: Problem, config: TrainConfig) -> None:
        super().__init__(problem, config)
        self.weights = torch.zeros(len(self.noisy_labels), device=self.loop.device)
        """[N]: each example's weight at its last visit, times the batch size: 1 is the mean."""

    def __call__(self, batch: Batch) -> StepLosses:
        drawn, virtual = self.draw(batch), self.virtual
        clean, v = virtual.clean_gradient(virtual.parameters, drawn.clean_images, drawn.clean_labels)
        _, logits = virtual.outputs(drawn.images)
        weights = example_weights(logits, drawn.labels, virtual.logit_derivative(drawn.images, v))
        self.weights[drawn.index] = weights * len(weights)
        return step_losses((weights * cross_entropy(logits, drawn.labels)).sum(), clean)

    def passes(self, clean_share: float) -> float:
        return 2 + clean_share


def example_weights(logits: Tensor, labels: Tensor, derivative: Tensor) -> Tensor:
    """w [B], which sums to 1 or is 0, from logits [B,K], labels int64 [B] and ż [B,K] along the clean gradient."""
    p = torch.softmax(logits.detach(), dim=1)
    agreement = ((p - functional.one_hot(labels, logits.shape[1])) * derivative).sum(dim=1)  # u/η
    kept = agreement.clamp(min=0)
    return kept / kept.sum().clamp(min=torch.finfo(kept.dtype).tiny)


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Train by L2RW; beliefs are the classifier's own p, T is not estimated."""
    return L2rwStep(problem, config).train(observer)
