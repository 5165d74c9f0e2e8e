"""The network as one of several processes trains it."""

import copy
import inspect
from itertools import chain

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fasten_model.train.sync_batch_norm import synchronise_batch_norm

_ARGUMENTS = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers"
"""Its name from torch 2.13 on, and before."""


def replica(network: nn.Module, device: torch.device, image_size: int) -> nn.Module:
    """A module on the same weights whose gradients are the mean over all processes', and BatchNorm over all of them.

    `network` itself stays as it is: what is saved, averaged and scored with never hears of other processes. Every
    process starts from the first one's weights. A parameter that no output depends on is frozen: the processes would
    wait for its gradient.
    """
    for parameter in _unused(network, device, image_size):
        parameter.requires_grad_(False)
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    twin = synchronise_batch_norm(copy.deepcopy(network, shared), device)
    return DistributedDataParallel(
        twin,
        device_ids=[device] if device.type == "cuda" else None,
        # Synchronised BatchNorm has the same everywhere.
        **{_SYNC_BUFFERS: False},  # type: ignore[arg-type]
    )


def _unused(network: nn.Module, device: torch.device, image_size: int) -> list[nn.Parameter]:
    """Parameters that no output depends on, found with two black images; changes nothing in `network`."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()  # so that no statistics change, and nothing random is drawn
    try:
        outputs = network(torch.zeros(2, 3, image_size, image_size, device=device))
        gradients = torch.autograd.grad(sum(output.sum() for output in outputs), trained, allow_unused=True)
    finally:
        network.train()
    return [parameter for parameter, gradient in zip(trained, gradients, strict=True) if gradient is None]
