"""MLC (MLaC in FasTEN's tables): Zheng, Awadallah, Dumais, "Meta Label Correction for Noisy Label Learning", AAAI 2021.

A label-correction network g(h, ȳ; α) reads an example's features h (constants to it) and its given label, and says
what the main network is to learn from it. Each step (the paper's algorithm 1 with a look-ahead of one step), half of
the clean batch, C₁, trained on and the other half, C₂, asked:

    s_i = g(h_i, ȳ_i; α)                                                   soft labels
    G = ∇_θ (Σ_B CE(s_i, p_i) + Σ_C₁ CE(y, p)) / (B + C₁)
    α ← Adam on ∇_α L_C₂(θ − η G(α))                                       the meta update
    descend along G                                                        under the α from before

g embeds ȳ, joins it to h, and has two hidden layers of 128 tanh units and a softmax over the K classes.

Official code (microsoft/MLC, which mixes clean samples into training as here): noisy and clean batches of 100,
embedding of 128, Adam with AMSGrad at 3e-4 for α, SGD at 0.1 for θ, whose momentum enters η. Deviations: the preset's
trunk, batches and optimiser; η is `virtual_rate`, and momentum and weight decay are left out of the look-ahead; the
clean half trained on does not move BatchNorm's buffers. α learns at their rate, though budgets here have a few thousand
steps and theirs 60,000: at ten times that, g came to give all digits one label.
Passes per step: 2 (noisy forward and backward 1, derivative 1) and one over the clean batch: the main step goes along
the virtual step's own gradient.
"""

import torch
from torch import Tensor, nn

from benchmarks.methods.base import Observer, Outcome, Problem
from benchmarks.methods.meta_step import MetaStep, fresh, step_losses
from benchmarks.methods.virtual_step import CleanPath, descend, meta_gradient, with_gradient
from fasten_model.loss import soft_cross_entropy
from fasten_model.network import TwoHeadNetwork
from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, StepLosses

EMBEDDING, HIDDEN, META_LR = 128, 128, 3e-4
"""The official code's."""


class LabelCorrection(nn.Module):
    """g: (features [B,D], given labels int64 [B]) → soft labels [B,K]."""

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, EMBEDDING)
        self.layers = nn.Sequential(
            nn.Linear(feature_dim + EMBEDDING, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, num_classes),
        )
        nn.init.xavier_uniform_(self.embedding.weight)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return torch.softmax(self.layers(torch.cat([features, self.embedding(labels)], dim=1)), dim=1)


class MlcStep(MetaStep):
    """g learns with the network."""

    def __init__(self, problem: Problem, config: TrainConfig) -> None:
        super().__init__(problem, config)
        feature_dim = self.loop.network.clean_head.in_features
        self.net = fresh(lambda: LabelCorrection(feature_dim, problem.num_classes), self.loop)
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=META_LR, amsgrad=True)

    def __call__(self, batch: Batch) -> StepLosses:
        drawn, virtual = self.draw(batch), self.virtual
        half = len(drawn.clean_labels) // 2
        share = len(drawn.labels) / (len(drawn.labels) + half)  # B / (B + C₁)
        features, logits = virtual.outputs(drawn.images)
        targets: Tensor = self.net(features.detach().float(), drawn.labels)  # s [B, K]

        noisy = share * soft_cross_entropy(logits, targets.detach()).mean()
        trained, by_clean = virtual.clean_gradient(
            virtual.parameters, drawn.clean_images[:half], drawn.clean_labels[:half]
        )
        gradient = tuple(torch._foreach_add(virtual.gradient(noisy), by_clean, alpha=1 - share))  # G
        ahead = virtual.look_ahead(gradient, drawn.rate)
        _, v = virtual.clean_gradient(ahead, drawn.clean_images[half:], drawn.clean_labels[half:])
        slope = meta_gradient(
            lambda z: share * soft_cross_entropy(z, targets).mean(),
            logits,
            virtual.logit_derivative(drawn.images, v),
            drawn.rate,
            list(self.net.parameters()),
        )
        descend(self._optimizer, list(self.net.parameters()), slope)
        total = noisy.detach() + (1 - share) * trained
        return step_losses(with_gradient(total, list(virtual.parameters.values()), gradient), trained)

    @torch.inference_mode()
    def beliefs(self, network: TwoHeadNetwork) -> Tensor:
        """g of every noisy sample, not augmented, network in evaluation mode: [N,K] on the CPU."""
        features, _ = predict_logits(CleanPath(network), self.problem.noisy_images)
        soft: Tensor = self.net(features.to(self.loop.device), self.noisy_labels)
        return soft.cpu()

    def passes(self, clean_share: float) -> float:
        return 2 + clean_share


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Train by MLC; beliefs are the soft labels that g gives in the end, T is not estimated."""
    return MlcStep(problem, config).train(observer)
