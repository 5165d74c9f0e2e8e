"""Features: the trunk's own, in one pass with the logits, and in half precision."""

import pytest
import torch
from torch import Tensor, nn

from fasten_model import features as features_module
from fasten_model.features import predict_features, predict_with_features
from fasten_model.images.augment import normalize
from fasten_model.images.source import TableImages
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits

IMAGES = torch.randint(256, (11, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> TwoHeadNetwork:
    torch.manual_seed(0)
    return build_network("small", 4, image_size=16).train()


def test_features_are_what_the_trunk_gives_in_evaluation_mode(
    network: TwoHeadNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "_CHUNK", 4)
    logits, features = predict_with_features(network, IMAGES)
    assert network.training, "it is left in the mode it was found in"
    expected = network.eval().trunk(normalize(IMAGES))
    assert (features.dtype, features.shape) == (torch.float16, expected.shape)
    torch.testing.assert_close(features.float(), expected.detach(), rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(logits, predict_logits(network, IMAGES)[0])
    assert torch.equal(predict_features(network, TableImages(IMAGES)), features)


def test_normalized_features_have_length_1(network: TwoHeadNetwork) -> None:
    lengths = predict_features(network, IMAGES, normalized=True).float().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(11), rtol=0, atol=2e-3)


def test_no_images_have_no_features(network: TwoHeadNetwork) -> None:
    logits, features = predict_with_features(network, IMAGES[:0])
    assert (logits.shape, features.shape) == ((0, 4), (0, network.clean_head.in_features))


def test_one_forward_pass_gives_both(network: TwoHeadNetwork) -> None:
    seen = 0

    def count(_module: nn.Module, images: tuple[Tensor]) -> None:
        nonlocal seen
        seen += len(images[0])

    network.trunk.register_forward_pre_hook(count)
    predict_with_features(network, IMAGES)
    assert seen == len(IMAGES)


def test_what_half_precision_cannot_hold_is_cut_off() -> None:
    class Loud(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 1e6 * (images.mean(dim=(2, 3)) + 5)

    loud = TwoHeadNetwork(Loud(), 3, 2)
    assert (predict_features(loud, IMAGES) == torch.finfo(torch.float16).max).all()
    assert predict_features(loud, IMAGES, normalized=True).isfinite().all()
