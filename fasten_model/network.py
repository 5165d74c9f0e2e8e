"""Two linear heads on one trunk (Kye et al., ECCV 2022): the clean head θ∘φ and the noisy head θ̄∘φ."""

import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.presets import find_preset


class TwoHeadNetwork(nn.Module):
    """The trunk φ with the clean head θ, which predicts p(y | x), and the noisy head θ̄, which predicts p(ȳ | x)."""

    def __init__(self, trunk: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.clean_head = nn.Linear(feature_dim, num_classes)
        self.noisy_head = nn.Linear(feature_dim, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float images [B,3,S,S] → (clean logits [B,K], noisy logits [B,K])."""
        features = self.trunk(images)  # [B, D]
        return self.clean_head(features), self.noisy_head(features)


def build_network(preset: str, num_classes: int) -> TwoHeadNetwork:
    """A freshly initialised network; `DataError` for an unknown preset or fewer than two classes."""
    find_preset(preset)
    if num_classes < 2:
        raise DataError(f"a classifier needs at least two classes, got {num_classes}")
    if preset == "small":
        return TwoHeadNetwork(_small_trunk(), _SMALL_WIDTHS[-1], num_classes)
    return TwoHeadNetwork(_resnet_trunk(preset), 512, num_classes)


_SMALL_WIDTHS = (16, 32, 64)


def _small_trunk() -> nn.Module:
    """Three strided convolution stages and a global average: [B,3,S,S] → [B,64]."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _SMALL_WIDTHS:
        layers += [_conv(channels, width, stride=2), _conv(width, width, stride=1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _conv(channels: int, width: int, *, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _resnet_trunk(name: str) -> nn.Module:
    """A torchvision ResNet as the reference has it: 3×3 stem, no max-pool, no classifier; [B,3,S,S] → [B,512]."""
    trunk: nn.Module = torchvision.models.get_model(name, weights=None)
    trunk.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    trunk.maxpool = nn.Identity()
    trunk.fc = nn.Identity()
    return trunk
