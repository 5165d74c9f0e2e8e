"""What the network made of each noisy sample whenever it visited it, before that visit's step.

Shapes: N samples, n of them in this process, B in a batch, K classes.
"""

import math

import torch
from torch import Tensor

from fasten_model.stacking import FLOOR
from fasten_model.train.process import Process

_DECAY = 3
"""η: half of the weight is of the last sixth of the visits. Below that a short training's first guesses count for too
much (`docs/ablation.md`)."""


class Visits:
    """The mean of log p over a sample's visits, the later ones weighed more: they know more.

    After e visits the new one's share is (η + 1)/(e + η), so that the k-th counts about as k^η (polynomial decay;
    Shamir and Zhang, 2013). That needs no window and no length of training.
    """

    def __init__(self, count: int, num_classes: int, process: Process, device: torch.device) -> None:
        self._count, self._process, self._device = count, process, device
        mine = len(process.own(torch.empty(count)))
        self._mean = torch.zeros(mine, num_classes, device=device)  # [n, K]; 0, which tells nothing, before any visit
        self._made = torch.zeros(mine, device=device)

    def add(self, index: Tensor, log_p: Tensor) -> Tensor:
        """Count a visit of the samples `index` int64 [B] (this process's numbers), log p [B,K]; their means [B,K]."""
        made = self._made[index] + 1
        seen = log_p.clamp(min=math.log(FLOOR))
        mean = self._mean[index] + ((_DECAY + 1) / (made + _DECAY))[:, None] * (seen - self._mean[index])
        self._made.index_copy_(0, index, made)
        self._mean.index_copy_(0, index, mean)
        return mean

    def at(self, rows: Tensor) -> Tensor:
        """The means of some samples by their numbers among all N, int64 [H] on the CPU: [H,K], in every process."""
        rank, world = self._process.rank, self._process.world
        mine = (rows % world == rank).to(self._device)
        found = self._mean.new_zeros(len(rows), self._mean.shape[1])
        found[mine] = self._mean[(rows // world).to(self._device)[mine]]
        return self._process.sum(found)

    def means(self) -> Tensor:
        """[N,K], in every process."""
        return self._process.gather(self._mean, self._count)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"visits": self.means(), "visits_made": self._process.gather(self._made, self._count)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self._mean = self._process.own(state["visits"]).to(self._device)
        self._made = self._process.own(state["visits_made"]).to(self._device)
