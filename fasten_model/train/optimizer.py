"""How weights move: the optimiser that a preset names, and its rate in each step."""

import torch
from torch import nn

from fasten_model.presets import Preset


def build_optimizer(network: nn.Module, settings: Preset) -> torch.optim.Optimizer:
    """The preset's optimiser over whatever in `network` is trained."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            trained,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def learning_rate(step: int, steps: int, settings: Preset) -> float:
    """The rate at `step` of `steps` (from 0)."""
    done = step / steps
    if settings.schedule == "step":
        return settings.lr * (1.0 if done < 5 / 7 else 0.1 if done < 6 / 7 else 0.01)
    if settings.schedule == "triangle":
        peak, first, last = 0.23, 0.2, 0.07
        return settings.lr * (
            first + (1 - first) * done / peak if done < peak else 1 - (1 - last) * (done - peak) / (1 - peak)
        )
    warm_up = 0.15
    return settings.lr * (min(1.0, (step + 1) / (warm_up * steps)) if done < warm_up else (1 - done) / (1 - warm_up))
