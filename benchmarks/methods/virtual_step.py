"""The one-step look-ahead that the meta-learning baselines share, with an exact meta-gradient at first-order cost.

All of them have a noisy loss L_n(θ, φ) over the network's parameters θ and a few meta-parameters φ (weights, a matrix,
a small network), and ask which φ would make one descent step on it best for the clean loss L_c:

    θ' = θ − η ∇_θ L_n(θ, φ)        min over φ of  L_c(θ')

L_n sees the network through its logits z [B,K] alone, so with v = ∇L_c(θ') the chain rule gives

    ∇_φ L_c(θ') = −η ∂/∂φ ⟨∇_θ L_n(θ, φ), v⟩ = −η ∂/∂φ ⟨∂L_n/∂z (z, φ), ż⟩,   ż = (∂z/∂θ) v.

ż [B,K] is one directional derivative in forward mode. No second-order graph of the trunk is ever built: this equals
`autograd.grad(create_graph=True)` through the step (tested) at less time and memory. What remains to differentiate
twice is a function of B·K logits.

BatchNorm normalises every training pass by its own batch, as everywhere in training, and the derivative goes through
those statistics. Its running buffers move in one pass of a step only, `outputs`, which is the main step's own forward.
All other passes get scratch copies: training never reads running statistics, so what is written there does not matter.

Cost in passes (forward and backward = 1, forward = ⅓): `gradient` ⅔, `clean_gradient` one over the clean images,
`logit_derivative` 1 (the output and, for each layer, the derivative by input and by weight: three forwards' work).

Shapes: B noisy batch, K classes, D features, P parameters.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional

from fasten_model.network import TwoHeadNetwork
from fasten_model.presets import Preset

ADAMW_VIRTUAL_LR = 0.1
"""Largest η where the preset's optimiser is not SGD: the rate that the papers' SGD starts at."""

Gradient = tuple[Tensor, ...]
"""One tensor for each trained parameter of the clean path, in its order."""


def virtual_rate(settings: Preset, lr: float) -> float:
    """η of a step whose optimiser runs at `lr`: the same under SGD; else 0.1, following the schedule.

    An AdamW rate is a step's length, not a factor on the gradient: plain descent with it would hardly move.
    """
    return lr if settings.optimizer == "sgd" else ADAMW_VIRTUAL_LR * lr / settings.lr


class CleanPath(nn.Module):
    """Trunk and clean head of a network, which keep its parameters and their names: images → (features, logits).

    The baselines have no use for the noisy head; left out, it costs nothing and is never trained.
    """

    def __init__(self, network: TwoHeadNetwork) -> None:
        super().__init__()
        self.trunk = network.trunk
        self.clean_head = network.clean_head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [B,3,S,S] → (features [B,D], clean logits [B,K])."""
        features = self.trunk(images)
        return features, self.clean_head(features)


class VirtualStep:
    """The passes of one look-ahead through a network in training mode."""

    def __init__(self, network: TwoHeadNetwork) -> None:
        self.path = CleanPath(network)
        self.parameters = {name: value for name, value in self.path.named_parameters() if value.requires_grad}
        self._frozen = {name: value for name, value in self.path.named_parameters() if not value.requires_grad}
        self._scratch = {name: buffer.clone() for name, buffer in self.path.named_buffers()}
        self._device = network.clean_head.weight.device.type
        _load_forward_mode()

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(features [B,D], logits [B,K]) at θ, with their graph: the one pass that moves the running buffers."""
        with self._autocast():
            features, logits = self.path(images)
        return features, _at_least_fp32(logits)

    def gradient(self, loss: Tensor) -> Gradient:
        """∇_θ of a scalar loss of `outputs`; the graph is kept for the main step."""
        return torch.autograd.grad(loss, tuple(self.parameters.values()), retain_graph=True)

    def look_ahead(self, gradient: Gradient, rate: float) -> dict[str, Tensor]:
        """θ' = θ − η·gradient by name: leaves of their own, so that v can be taken there."""
        with torch.no_grad():
            moved = torch._foreach_add(list(self.parameters.values()), gradient, alpha=-rate)
        return {name: value.requires_grad_() for name, value in zip(self.parameters, moved, strict=True)}

    def clean_gradient(
        self, parameters: Mapping[str, Tensor], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Gradient]:
        """L_c, the mean cross-entropy at these parameters, and v = ∇L_c; images [C,3,S,S], int64 labels [C]."""
        with self._autocast():
            _, logits = functional_call(self.path, (dict(parameters), self._scratch), (images,))
        loss = functional.cross_entropy(_at_least_fp32(logits), labels)
        return loss.detach(), torch.autograd.grad(loss, tuple(parameters.values()))

    def logit_derivative(self, images: Tensor, direction: Gradient) -> Tensor:
        """ż [B,K]: the derivative of the logits on noisy images at θ along `direction`, in forward mode."""
        with torch.no_grad(), forward_ad.dual_level(), self._autocast():
            dual = {
                name: forward_ad.make_dual(value.detach(), slope)  # type: ignore[no-untyped-call]
                for (name, value), slope in zip(self.parameters.items(), direction, strict=True)
            }
            # Under autocast a BatchNorm whose scale is frozen answers with derivatives in single precision, which the
            # next convolution refuses; not so where the scale has a derivative, be it zero.
            dual |= {
                name: forward_ad.make_dual(value.detach(), torch.zeros_like(value))  # type: ignore[no-untyped-call]
                for name, value in self._frozen.items()
            }
            _, logits = functional_call(self.path, (dual, self._scratch), (images,))
            tangent: Tensor = forward_ad.unpack_dual(logits).tangent  # type: ignore[no-untyped-call]
        return _at_least_fp32(tangent)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._device == "cuda")


def with_gradient(loss: Tensor, parameters: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """A scalar that is `loss` by value and has `gradient` as its gradient.

    Where the main step goes along the virtual step's own gradient, the loop descends this without a second backward.
    """
    linear = torch.stack([(value * slope).sum() for value, slope in zip(parameters, gradient, strict=True)]).sum()
    return linear + (loss - linear).detach()


def _load_forward_mode() -> None:
    """PyTorch's forward mode compiles its rules at first use, through a function that PyTorch itself has deprecated."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


def _at_least_fp32(values: Tensor) -> Tensor:
    """bf16 → fp32; float64, which tests use, stays."""
    return values if values.dtype == torch.float64 else values.float()


def meta_gradient(
    noisy_loss: Callable[[Tensor], Tensor],
    logits: Tensor,
    derivative: Tensor,
    rate: float,
    meta_parameters: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """∇_φ L_c(θ') = −η ∂/∂φ ⟨∂L_n/∂z, ż⟩, one tensor for each meta-parameter.

    noisy_loss: logits [B,K] → scalar L_n, which depends on φ. logits: at θ. derivative: ż from `logit_derivative`.
    """
    z = logits.detach().requires_grad_()
    (slope,) = torch.autograd.grad(noisy_loss(z), z, create_graph=True)  # ∂L_n/∂z [B, K]
    return torch.autograd.grad(-rate * (slope * derivative).sum(), tuple(meta_parameters))


def descend(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], gradient: Sequence[Tensor]) -> None:
    """One step of the meta-parameters' own optimiser along a gradient computed by hand."""
    for parameter, slope in zip(parameters, gradient, strict=True):
        parameter.grad = slope
    optimizer.step()
