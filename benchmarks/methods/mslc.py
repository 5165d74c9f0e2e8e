"""MSLC: Wu, Shu, Xie, Zhao, Meng, "Learning to Purify Noisy Labels via Meta Soft Label Corrector", AAAI 2021.

An example is trained on a mixture of three labels: ȳ as given, ẑ, the largest entry of the soft label that its previous
visit left, and ŷ = argmax p of now. Two small networks of losses say in which shares (equation 5 and after):

    α = V(CE(ȳ, p)),   β = U(CE(ẑ, p))
    s = α·ȳ + (1 − α)(β·ẑ + (1 − β)·ŷ)

After a first part of training by plain cross-entropy, each step, with the losses inside V and U constants:

    θ' = θ − η ∇_θ 1/B Σ_i CE(s_i, p_i)           the virtual step
    V, U ← Adam on ∇ L_c(θ'(V, U))                the meta update
    descend 1/B Σ_i CE(s_i, p_i)                  with the new V and U

What a visit leaves is the same mixture with the soft label and p in place of ẑ and ŷ; during the first part, p.

Official code (WuYichen-97/Learning-to-Purify-Noisy-Labels-via-Meta-Soft-Label-Corrector): ResNet-34, batches of 100,
80 of 120 epochs by cross-entropy, V and U like MW-Net's, Adam at 1e-3 with weight decay 1e-4, η 0.1. Deviations: the
preset's trunk, batches, optimiser and schedule, with `virtual_rate` for η; the virtual and the main step share one
forward, which changes no number; a soft label is written at once and not at the end of the epoch, which is the same, as
each example is visited once in it.
Passes per step: 1 in the first ⅔ of training, then 2⅔ (main step 1, virtual gradient ⅔, derivative 1) and one over the
clean batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.base import Observer, Outcome, Problem
from benchmarks.methods.meta_step import MetaStep, fresh, step_losses
from benchmarks.methods.mw_net import META_LR, META_WEIGHT_DECAY, weigh, weight_net
from benchmarks.methods.virtual_step import descend, meta_gradient
from fasten_model.loss import cross_entropy, soft_cross_entropy
from fasten_model.network import TwoHeadNetwork
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, StepLosses

WARM_UP = 2 / 3
"""Share of the steps that is plain cross-entropy: the official 80 of 120 epochs."""


class MslcStep(MetaStep):
    """V, U and every noisy sample's soft label change with the network."""

    def __init__(self, problem: Problem, config: TrainConfig) -> None:
        super().__init__(problem, config)
        self.nets = fresh(lambda: nn.ModuleList([weight_net(), weight_net()]), self.loop)
        """V and U."""
        self._meta = list(self.nets.parameters())
        self._optimizer = torch.optim.Adam(self._meta, lr=META_LR, weight_decay=META_WEIGHT_DECAY)
        self.soft = functional.one_hot(self.noisy_labels, problem.num_classes).float()
        """[N,K]: each noisy sample's soft label, rows sum to 1."""

    def __call__(self, batch: Batch) -> StepLosses:
        if batch.step < WARM_UP * batch.steps:
            images, labels = self.noisy(batch)
            _, logits = self.virtual.outputs(images)
            self.soft[batch.noisy.index] = torch.softmax(logits.detach(), dim=1)
            loss = cross_entropy(logits, labels).mean()
            return step_losses(loss, torch.zeros_like(loss.detach()))

        drawn, virtual = self.draw(batch), self.virtual
        _, logits = virtual.outputs(drawn.images)
        p, num_classes = torch.softmax(logits.detach(), dim=1), logits.shape[1]
        given, previous, current = (
            functional.one_hot(labels, num_classes).float()
            for labels in (drawn.labels, self.soft[drawn.index].argmax(dim=1), p.argmax(dim=1))
        )  # ȳ, ẑ, ŷ: [B, K]
        losses = soft_cross_entropy(logits.detach(), given), soft_cross_entropy(logits.detach(), previous)

        alpha, beta = self._shares(*losses)
        targets = mixture(alpha, beta, given, previous, current)
        ahead = virtual.look_ahead(virtual.gradient(soft_cross_entropy(logits, targets.detach()).mean()), drawn.rate)
        clean, v = virtual.clean_gradient(ahead, drawn.clean_images, drawn.clean_labels)
        slope = meta_gradient(
            lambda z: soft_cross_entropy(z, targets).mean(),
            logits,
            virtual.logit_derivative(drawn.images, v),
            drawn.rate,
            self._meta,
        )
        descend(self._optimizer, self._meta, slope)

        with torch.no_grad():
            alpha, beta = self._shares(*losses)
            targets = mixture(alpha, beta, given, previous, current)
            self.soft[drawn.index] = mixture(alpha, beta, given, self.soft[drawn.index], p)
        return step_losses(soft_cross_entropy(logits, targets).mean(), clean)

    def _shares(self, given_losses: Tensor, previous_losses: Tensor) -> tuple[Tensor, Tensor]:
        """α and β, [B,1] each."""
        first, second = self.nets.children()
        return weigh(first, given_losses)[:, None], weigh(second, previous_losses)[:, None]

    def metrics(self) -> tuple[Tensor, Tensor]:
        corrected = (self.soft.argmax(dim=1) != self.noisy_labels).float().mean()
        return corrected, torch.ones_like(corrected)

    def beliefs(self, network: TwoHeadNetwork) -> Tensor:  # noqa: ARG002
        return self.soft.cpu()

    def passes(self, clean_share: float) -> float:
        return WARM_UP + (1 - WARM_UP) * (2 + 2 / 3 + clean_share)


def mixture(alpha: Tensor, beta: Tensor, given: Tensor, previous: Tensor, current: Tensor) -> Tensor:
    """α·given + (1 − α)(β·previous + (1 − β)·current): shares [B,1], labels [B,K] → [B,K]."""
    return alpha * given + (1 - alpha) * (beta * previous + (1 - beta) * current)


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Train by MSLC; beliefs are the soft labels that the last visits left, T is not estimated."""
    return MslcStep(problem, config).train(observer)
