"""Two heads on a trunk, and which loss reaches which head."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fasten_model.errors import DataError
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits
from fasten_model.presets import PRESETS


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_both_heads_answer_for_every_class(preset: str) -> None:
    network = build_network(preset, 7).eval()
    clean_logits, noisy_logits = network(torch.zeros(2, 3, 16, 16))
    assert clean_logits.shape == noisy_logits.shape == (2, 7)
    assert network.clean_head.in_features == network.noisy_head.in_features


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_names_its_trunk(preset: str) -> None:
    assert build_network(preset, 2).trunk_name == PRESETS[preset].trunk


def test_a_network_made_by_hand_names_its_module() -> None:
    assert TwoHeadNetwork(nn.Flatten(), 12, 2).trunk_name == "module:Flatten"


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


def test_the_trunk_starts_from_weights_in_a_file(tmp_path: Path) -> None:
    other = build_network("small", 3).trunk.state_dict()
    save_file(other, tmp_path / "trunk.safetensors")
    network = build_network("small", 9, weights=tmp_path / "trunk.safetensors")
    for name, tensor in network.trunk.state_dict().items():
        assert torch.equal(tensor, other[name])


def test_the_same_seed_draws_the_same_network_from_whichever_name() -> None:
    def drawn(trunk: str) -> torch.Tensor:
        torch.manual_seed(5)
        return build_network(trunk, 3).clean_head.weight

    assert torch.equal(drawn("paper"), drawn("resnet34"))


def test_an_unknown_trunk_lists_those_there_are() -> None:
    with pytest.raises(DataError, match="'tiny'; choose one of small, resnet18, resnet34, fast, torchvision:NAME"):
        build_network("tiny", 2)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(DataError, match="num_classes must be a whole number from 2, got 1"):
        build_network("small", 1)
