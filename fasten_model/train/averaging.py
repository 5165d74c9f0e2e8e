"""Averaged weights."""

import copy

import torch
from torch import nn

from fasten_model.network import TwoHeadNetwork


class AveragedWeights:
    """Exponential moving average of weights and BatchNorm statistics (Polyak and Juditsky, 1992)."""

    def __init__(self, network: TwoHeadNetwork, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` (from 0); the first steps are forgotten faster than `decay` says."""
        kept = min(self.decay, (1 + step) / (10 + step))
        own, new = self.network.state_dict(), network.state_dict()
        floating = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floating], [new[name] for name in floating], 1 - kept)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])
