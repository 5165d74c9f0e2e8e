"""Two linear heads on one trunk (Kye et al., ECCV 2022): the clean head θ∘φ and the noisy head θ̄∘φ."""

from pathlib import Path

from torch import Tensor, nn

from fasten_model.checks import check_whole
from fasten_model.trunk_weights import load_trunk_weights
from fasten_model.trunks import MODULE_PREFIX, build_trunk


class TwoHeadNetwork(nn.Module):
    """The trunk φ with the clean head θ, which predicts p(y | x), and the noisy head θ̄, which predicts p(ȳ | x)."""

    trunk_name: str
    """What builds the trunk again (`fasten_model.trunks`): a model file names it."""

    def __init__(self, trunk: nn.Module, feature_dim: int, num_classes: int, *, trunk_name: str | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.clean_head = nn.Linear(feature_dim, num_classes)
        self.noisy_head = nn.Linear(feature_dim, num_classes)
        self.trunk_name = trunk_name or MODULE_PREFIX + type(trunk).__name__

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float images [B,3,S,S] → (clean logits [B,K], noisy logits [B,K])."""
        features = self.trunk(images)  # [B, D]
        return self.clean_head(features), self.noisy_head(features)

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float images [B,3,S,S] → (clean logits [B,K], features φ(x) [B,D])."""
        features = self.trunk(images)  # [B, D]
        return self.clean_head(features), features


def build_network(
    trunk: str | nn.Module, num_classes: int, *, image_size: int = 32, weights: Path | str | None = None
) -> TwoHeadNetwork:
    """A network with fresh heads.

    trunk: a name or a module, of which a copy is taken (`fasten_model.trunks.build_trunk`). image_size: side S of the
    images it is meant for. weights: a local file with the trunk's weights (`fasten_model.trunk_weights`); without one
    they are drawn at random, and those of a module stay as they are.

    Raises `DataError` for an unknown trunk, one that takes no such images, weights that do not fit it, or fewer than
    two classes.
    """
    check_whole("num_classes", num_classes, 2)
    check_whole("image_size", image_size, 1)
    built = build_trunk(trunk, image_size=image_size)
    if weights is not None:
        load_trunk_weights(built.module, Path(weights), trunk_name=built.name)
    return TwoHeadNetwork(built.module, built.feature_dim, num_classes, trunk_name=built.name)
