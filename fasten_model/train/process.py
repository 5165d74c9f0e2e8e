"""This process among those that train together (PyTorch Distributed), or the only one.

Sample n belongs to process n mod world, which alone holds its image and its label, as its number n // world.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from fasten_model.errors import DataError
from fasten_model.images.source import Images

T = TypeVar("T")


class SharedError(DataError):
    """A `DataError` that all processes raise at the same place: one of them need tell of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """Rank of `world` processes that all run the same steps; nothing is sent where there is one.

    All of them call a method that sends something, or none does.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is this one that prints and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors; in place, if that lies in memory as it is indexed."""
        if self.world > 1:
            tensor = tensor.contiguous()  # NCCL refuses any other, which gloo does not
            dist.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process has raised it."""
        if self.world == 1:
            return flags
        return tuple(value > 0 for value in self.sum(torch.tensor(flags, dtype=torch.int64)).tolist())

    def first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, the only one that calls it; its `DataError` is raised in all."""
        if self.world == 1:
            return make()
        made: list[T | None] = [self.each(lambda: make() if self.is_first else None)]
        dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def each(self, make: Callable[[], T]) -> T:
        """What `make` returns, called in every process; an error in one of them is raised in all, that none waits.

        A `DataError` is the same in all; any other is itself where it came up, and a `DataError` that tells of it in
        the others.
        """
        if self.world == 1:
            return make()
        made: T | None = None
        own, other = None, None
        try:
            made = make()
        except DataError as error:
            own = str(error)
        except Exception as error:
            other = error
            own = f"process {self.rank} has failed: {type(error).__name__} {error}".partition("\n")[0]
        told: list[str | None] = [None] * self.world
        dist.all_gather_object(told, own)
        if other is not None:
            raise other
        for line in told:
            if line is not None:
                raise SharedError(line)
        return made  # type: ignore[return-value]

    def check_same(self, what: str, *tensors: Tensor) -> None:
        """`DataError`, in all, where not every process has the same: shares that each has taken beforehand, say, whose
        results would be put together as if they were parts of one set."""
        if self.world == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(f"{list(tensor.shape)}".encode() + tensor.cpu().numpy().tobytes())
        told: list[str] = [""] * self.world
        dist.all_gather_object(told, digest.hexdigest())
        if len(set(told)) > 1:
            raise SharedError(f"the processes were given different {what}: give each all of them, it takes its share")

    def own(self, values: Tensor) -> Tensor:
        """The rows of `values` [N, …] that belong to this process, in the order of their numbers: a view."""
        return values[self.rank :: self.world]

    def own_images(self, images: Tensor | Images) -> Tensor | Images:
        """The same of images; none is read."""
        return images if self.world == 1 else images[self.rank :: self.world]

    def whole(self, own: Tensor, positions: Tensor | None, size: int) -> Tensor:
        """All processes' rows of a batch of `size`, each at its place in it: [B, …]; `positions` as in `Part`."""
        if positions is None:
            return own
        return self.sum(own.new_zeros(size, *own.shape[1:]).index_copy_(0, positions, own))

    def gather(self, own: Tensor, count: int) -> Tensor:
        """All processes' rows in the order of N = `count` samples: [N, …], in every process."""
        if self.world == 1:
            return own
        values = torch.zeros(count, *own.shape[1:], dtype=own.dtype, device=own.device)
        self.own(values).copy_(own)
        return self.sum(values)


ALONE = Process()


def this_process() -> Process:
    """What `torch.distributed` says, if it has been initialised: with a backend for tensors on the CPU too (gloo)."""
    if dist.is_available() and dist.is_initialized():
        return Process(rank=dist.get_rank(), world=dist.get_world_size())
    return ALONE
