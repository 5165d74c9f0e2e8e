"""BatchNorm over the batch of all processes: mean and variance are those that one process would have found.

torch's own `SyncBatchNorm` on a GPU; it refuses CPU tensors, so there it is one of ours.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function

_log = logging.getLogger(__name__)


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """As `nn.SyncBatchNorm`, on any device. A process may have no sample."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"expected [B,C,…], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """[B,C,…] → the same shape."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        normal, mean, variance, count = _normalise(input, self.eps)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(unbiased, share)
        shape = (1, -1, *(1,) * (input.dim() - 2))
        if self.weight is not None:
            normal = normal * self.weight.view(shape)
        if self.bias is not None:
            normal = normal + self.bias.view(shape)
        return normal


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    applied: tuple[Tensor, Tensor, Tensor, Tensor] = _Normalise.apply(x, eps)  # type: ignore[no-untyped-call]
    return applied


class _Normalise(Function):
    """x [B,C,…] → (x̂ = (x − μ)/√(σ² + ε), μ [C], σ² [C], count []) over the batches of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes, shape = _axes(x)
        sums = torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])
        dist.all_reduce(sums)
        count = sums[-1].clamp(min=1)
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        squares = centred.square().sum(axes)  # the sum of squares itself would cancel
        dist.all_reduce(squares)
        variance = squares / count
        inverse = torch.rsqrt(variance + eps)
        normal = centred * inverse.view(shape)
        ctx.save_for_backward(normal, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normal, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        normal, inverse, count = ctx.saved_tensors
        gradient = gradients[0]
        axes, shape = _axes(gradient)
        sums = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)])  # [2, C]
        dist.all_reduce(sums)
        of_mean, of_variance = sums / count
        return (gradient - of_mean.view(shape) - normal * of_variance.view(shape)) * inverse.view(shape), None


def _axes(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(every axis but the channels', the shape that spreads [C] over x)."""
    return (0, *range(2, x.dim())), (1, -1, *(1,) * (x.dim() - 2))


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` with each BatchNorm in it replaced, in place; weights and statistics stay the same tensors."""
    if device.type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronised
    for name, module in network.named_modules():
        for child_name, child in module.named_children():
            if type(child) in _PLAIN:
                setattr(module, child_name, _synchronised(child))
            elif isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, CpuSyncBatchNorm):
                place = ".".join(filter(None, (name, child_name)))
                _log.warning("%s (%s) takes its statistics from each process alone", place, type(child).__name__)
    return network


def _synchronised(norm: nn.Module) -> CpuSyncBatchNorm:
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    own = CpuSyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    own._parameters.update(norm._parameters)
    own._buffers.update(norm._buffers)
    own.train(norm.training)
    return own
