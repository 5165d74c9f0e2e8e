"""Shapes of the presets, and which loss reaches which head."""

import pytest
import torch

from fasten_model.errors import DataError
from fasten_model.network import build_network
from fasten_model.predict import predict_logits
from fasten_model.presets import PRESETS


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_both_heads_answer_for_every_class(preset: str) -> None:
    network = build_network(preset, 7).eval()
    clean_logits, noisy_logits = network(torch.zeros(2, 3, 16, 16))
    assert clean_logits.shape == noisy_logits.shape == (2, 7)
    assert network.clean_head.in_features == network.noisy_head.in_features


@pytest.mark.parametrize("side", [8, 16, 28, 32])
def test_the_small_trunk_takes_images_from_8_to_32_pixels(side: int) -> None:
    clean_logits, _ = build_network("small", 3)(torch.zeros(2, 3, side, side))
    assert clean_logits.shape == (2, 3)


def test_the_resnet_keeps_its_resolution_in_the_stem() -> None:
    network = build_network("resnet18", 2).eval()
    stem = [module for name, module in network.trunk.named_children() if name in ("conv1", "bn1", "relu", "maxpool")]
    assert torch.nn.Sequential(*stem)(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32, 32)


def test_the_noisy_head_trains_the_trunk_but_not_the_clean_head() -> None:
    network = build_network("small", 3)
    _, noisy_logits = network(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    noisy_logits.square().sum().backward()
    assert network.clean_head.weight.grad is None
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.trunk.parameters())


def test_prediction_does_not_depend_on_the_batch_and_leaves_the_mode_as_it_was() -> None:
    torch.manual_seed(0)
    network = build_network("small", 3).train()
    images = torch.randint(256, (7, 3, 16, 16), dtype=torch.uint8)
    whole, in_parts = predict_logits(network, images), predict_logits(network, images, batch=3)
    for one, other in zip(whole, in_parts, strict=True):
        torch.testing.assert_close(one, other)
    assert network.training


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(DataError, match="'tiny'; choose one of small, resnet18, resnet34"):
        build_network("tiny", 2)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(DataError, match="at least two classes, got 1"):
        build_network("small", 1)
