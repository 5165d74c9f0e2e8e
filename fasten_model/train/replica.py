"""The network as one of several processes trains it."""

import copy
from itertools import chain

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fasten_model.train.sync_batch_norm import synchronise_batch_norm


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
        broadcast_buffers=False,  # synchronised BatchNorm has the same everywhere
    )
