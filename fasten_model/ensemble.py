"""Several networks as one: what is left where each of them was trained without other audited samples.

Shapes: M members, B images, K classes, D features, S image side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.network import TwoHeadNetwork


class Ensemble(nn.Module):
    """M networks of the same trunk and classes, each a `TwoHeadNetwork`; their mean logits are the ensemble's.

    The softmax of mean logits is the normalised geometric mean of the members' probabilities. Means are taken in single
    precision, as they were when the model was fitted.
    """

    def __init__(self, members: Sequence[TwoHeadNetwork]) -> None:
        super().__init__()
        if not members:
            raise DataError("an ensemble needs at least one member")
        self.members = nn.ModuleList(members)
        self.trunk_name = members[0].trunk_name
        """That of every member."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float images [B,3,S,S] → (clean logits [B,K], noisy logits [B,K]), means over the members."""
        clean, noisy = zip(*(member(images) for member in self.members), strict=True)
        return torch.stack(clean).float().mean(dim=0), torch.stack(noisy).float().mean(dim=0)

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float images [B,3,S,S] → (clean logits [B,K], the first member's features φ(x) [B,D]).

        Features say which images are alike, and one member knows that: all of them would take M times the memory.
        """
        found = [member.with_features(images) for member in self.members]  # type: ignore[operator]
        return torch.stack([logits for logits, _ in found]).float().mean(dim=0), found[0][1]


Network = TwoHeadNetwork | Ensemble
"""What predicts and scores."""


def together(members: Sequence[TwoHeadNetwork]) -> Network:
    """The one network itself, or an ensemble of several."""
    return members[0] if len(members) == 1 else Ensemble(members)


def members_of(network: Network) -> int:
    """M; 1 of a single network."""
    return len(network.members) if isinstance(network, Ensemble) else 1
