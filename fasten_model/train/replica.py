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


def replica(network: nn.Module, device: torch.device) -> nn.Module:
    """A module on the same weights whose gradients are the mean over all processes', and BatchNorm over all of them.

    `network` itself stays as it is: what is saved, averaged and scored with never hears of other processes. Every
    process starts from the first one's weights.
    """
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    twin = synchronise_batch_norm(copy.deepcopy(network, shared), device)
    return DistributedDataParallel(
        twin,
        device_ids=[device] if device.type == "cuda" else None,
        # Synchronised BatchNorm has the same everywhere.
        **{_SYNC_BUFFERS: False},  # type: ignore[arg-type]
    )
