"""What the trunk sees in an image: the features φ(x), to tell which images are alike.

Shapes: N images, D features, K classes.
"""

import torch
from torch import Tensor, nn

from fasten_model.ensemble import Network
from fasten_model.images.source import Images
from fasten_model.predict import predict_logits

_CHUNK = 2**14
"""Images whose features are held in single precision at once."""


class _WithFeatures(nn.Module):
    """The network as a map from images to (clean logits, features): one forward pass for both."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.with_features(images)


def predict_with_features(
    network: Network, images: Tensor | Images, *, normalized: bool = False
) -> tuple[Tensor, Tensor]:
    """uint8 images [N,3,S,S] → (clean logits, fp32 [N,K]; features φ(x), fp16 [N,D]), on the CPU, in evaluation mode.

    normalized: features of length 1, so that a scalar product is a cosine. Values beyond half precision are cut off.
    """
    both = _WithFeatures(network)
    parts = []
    for start in range(0, max(1, len(images)), _CHUNK):
        logits, features = predict_logits(both, images[start : start + _CHUNK])
        if normalized:
            features = nn.functional.normalize(features, dim=1)
        largest = torch.finfo(torch.float16).max
        parts.append((logits, features.clamp(-largest, largest).half()))
    logits, features = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return logits, features


def predict_features(network: Network, images: Tensor | Images, *, normalized: bool = False) -> Tensor:
    """uint8 images [N,3,S,S] → features φ(x), fp16 [N,D] on the CPU (`predict_with_features`)."""
    return predict_with_features(network, images, normalized=normalized)[1]
