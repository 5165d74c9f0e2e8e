"""Scoring is the network's forward pass in evaluation mode, wherever the images lie and however they are cut."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fasten_model import predict
from fasten_model.features import predict_with_features
from fasten_model.images.augment import normalize
from fasten_model.images.source import TableImages
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits

IMAGES = torch.randint(256, (23, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> TwoHeadNetwork:
    torch.manual_seed(0)
    return build_network("small", 4)


def forward(network: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        clean, noisy = network.eval()(normalize(IMAGES))
    return clean, noisy


@pytest.mark.parametrize("batch", [None, 1, 5, 23, 100])
def test_every_image_is_scored_once_and_in_order(network: TwoHeadNetwork, batch: int | None) -> None:
    for expected, found in zip(forward(network), predict_logits(network, IMAGES, batch=batch), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)


def test_results_gathered_in_chunks_are_the_same(network: TwoHeadNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_CHUNK", 8)
    for expected, found in zip(forward(network), predict_logits(network, IMAGES, batch=4), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(predict_logits(network, IMAGES[:16], batch=4)[0], forward(network)[0][:16])


def test_images_that_are_not_in_memory_are_scored_alike(network: TwoHeadNetwork) -> None:
    rows = torch.tensor([22, 0, 0, 7])
    clean, noisy = predict_logits(network, TableImages(IMAGES, rows), batch=3)
    torch.testing.assert_close(clean, forward(network)[0][rows])
    torch.testing.assert_close(noisy, forward(network)[1][rows])


def test_no_images_have_no_logits_of_the_right_width(network: TwoHeadNetwork) -> None:
    for none in (IMAGES[:0], TableImages(IMAGES[:0])):
        assert [logits.shape for logits in predict_logits(network, none)] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("score", [predict_logits, predict_with_features])
def test_each_module_keeps_its_mode_and_its_batch_statistics(
    network: TwoHeadNetwork, score: Callable[[TwoHeadNetwork, Tensor], object]
) -> None:
    """Evaluation, training, and training with some parts of the trunk frozen."""
    for mode, frozen in ((False, 0), (True, 0), (True, 3)):
        network.train(mode)
        for part in list(network.trunk.modules())[-frozen:] if frozen else ():
            part.eval()
        modes = [module.training for module in network.modules()]
        before = {name: value.clone() for name, value in network.state_dict().items()}
        score(network, IMAGES)
        score(network, IMAGES[:0])
        assert [module.training for module in network.modules()] == modes
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_any_module_that_gives_both_logits_will_do() -> None:
    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images.mean(dim=(2, 3)), -images.mean(dim=(2, 3))

    clean, noisy = predict_logits(Brightness(), IMAGES)
    torch.testing.assert_close(clean, normalize(IMAGES).mean(dim=(2, 3)))
    torch.testing.assert_close(noisy, -clean)
