"""What the network says of a sample, what it said at each visit, and what annotators said, weighed into one belief.

    q_i ∝ exp(w₁·log p_i + w₂·v_i + w₃·ℓ_i)

p is the trained network's, v the mean of log p over the visits of training (`fasten_model.train.visits`), ℓ the log
likelihood of what annotators said. A network that trains long comes to believe wrong labels of the very samples that it
trains on; what it made of them before, it no longer says. How much of each to believe differs from set to set, and
audited samples that trained *with the label that they came with*, as the bulk does, tell it: the weights are those that
predict their true classes best (stacked generalisation; Wolpert, 1992).

Shapes: N samples, P audited ones, K classes.
"""

from dataclasses import astuple, dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from fasten_model.errors import DataError

_SPREAD = 1.0
"""Prior standard deviation of each weight: forty samples move it, three do not."""
_STEPS = 60
"""Newton's method takes about six."""
_NEAR = 1e-9
"""A step that is shorter is none."""
FLOOR = 1e-4
"""The least probability that is told apart: one visit that is all but sure must not outweigh all others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """How much each of the three counts; none is below 0. The defaults hold where nothing is known."""

    network: float = 0.5
    """w₁, of the trained network's log p."""
    visits: float = 0.5
    """w₂, of the mean of log p over the visits."""
    evidence: float = 0.75
    """w₃, of the annotators' log likelihood: γ. Below 1, for they and the network err on the same images."""

    @classmethod
    def of(cls, values: Tensor) -> "Weights":
        """From the three of them in their order, [3]."""
        network, visits, evidence = map(float, values)
        return cls(network=network, visits=visits, evidence=evidence)


def stacked(log_p: Tensor, visits: Tensor, evidence: Tensor, weights: Weights) -> Tensor:
    """q [N,K], rows sum to 1; log p, v and ℓ are [N,K]."""
    return torch.softmax(weights.network * log_p + weights.visits * visits + weights.evidence * evidence, dim=1)


def fit_weights(log_p: Tensor, visits: Tensor, evidence: Tensor, true_labels: Tensor) -> Weights:
    """The weights, none below 0, that maximise Σ log q[true] − Σ (w − w⁰)²/2, w⁰ being the defaults.

    That is concave, so its maximum under the bounds is the free maximum of the weights that are not 0 in it: Newton's
    method, for each choice of those where the maximum of all three has one below 0. With no sample: the defaults.

    log_p, visits, evidence [P,K]: of samples whose truth no training has seen; evidence by a T that was not told
    it. true_labels int64 [P]. Raises `DataError` where a value is not finite.
    """
    told = torch.stack([log_p, visits, evidence], dim=2).double().cpu()  # [P, K, 3]
    if not torch.isfinite(told).all():
        raise DataError("cannot weigh the model's beliefs: they are not finite; train again with a lower learning rate")
    true = true_labels.cpu()
    prior = torch.tensor(astuple(Weights()), dtype=torch.float64)
    every = _maximum(told, true, prior, torch.ones(len(prior), dtype=torch.bool))
    if (every >= 0).all():
        return Weights.of(every)
    found = [
        _maximum(told, true, prior, torch.tensor(free))
        for free in product((False, True), repeat=len(prior))
        if any(free)
    ]
    allowed = [weights for weights in (*found, torch.zeros_like(prior)) if (weights >= 0).all()]
    return Weights.of(max(allowed, key=partial(_worth, told, true, prior)))


def _worth(told: Tensor, true: Tensor, prior: Tensor, weights: Tensor) -> float:
    """What the weights [3] maximise."""
    likelihood = torch.log_softmax(told @ weights, dim=1).gather(1, true[:, None]).sum()
    return float(likelihood - (weights - prior).square().sum() / (2 * _SPREAD**2))


def _maximum(told: Tensor, true: Tensor, prior: Tensor, free: Tensor) -> Tensor:
    """The weights [3] of the maximum, those that are not `free` being 0, by Newton's method with halved steps."""
    weights = torch.where(free, prior, 0)
    worth = _worth(told, true, prior, weights)
    reached = told.gather(1, true[:, None, None].expand(-1, 1, told.shape[2])).sum(dim=(0, 1))
    for _ in range(_STEPS):
        q = torch.softmax(told @ weights, dim=1)  # [P, K]
        mean = torch.einsum("pk,pkm->pm", q, told)
        slope = reached - mean.sum(dim=0) - (weights - prior) / _SPREAD**2
        curvature = torch.einsum("pk,pkm,pkn->mn", q, told, told) - mean.t() @ mean
        curvature = curvature + torch.eye(len(prior), dtype=torch.float64) / _SPREAD**2
        step = torch.zeros_like(weights)
        step[free] = torch.linalg.solve(curvature[free][:, free], slope[free])
        while (found := _worth(told, true, prior, weights + step)) < worth and float(step.abs().max()) > _NEAR:
            step = step / 2
        if float(step.abs().max()) <= _NEAR:
            break
        weights, worth = weights + step, found
    return weights
