"""This process among those that train together (PyTorch Distributed), or the only one.

Sample n belongs to process n mod world, which alone holds its image and its label, as its number n // world.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """Rank of `world` processes that all run the same steps; nothing is sent where there is one."""

    rank: int = 0
    world: int = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def own(self, values: Tensor) -> Tensor:
        """The rows of `values` [N, …] that belong to this process, in the order of their numbers: a view."""
        return values[self.rank :: self.world]

    def gather(self, own: Tensor, count: int) -> Tensor:
        """All processes' rows in the order of N = `count` samples: [N, …], in every process."""
        if self.world == 1:
            return own
        values = torch.zeros(count, *own.shape[1:], dtype=own.dtype, device=own.device)
        self.own(values).copy_(own)
        return self.sum(values)


ALONE = Process()


def this_process() -> Process:
    """What `torch.distributed` says, if it has been initialised."""
    if dist.is_available() and dist.is_initialized():
        return Process(rank=dist.get_rank(), world=dist.get_world_size())
    return ALONE
