"""The settings that come with a name."""

import pytest

from fasten_model.errors import DataError
from fasten_model.presets import PRESETS, find_preset
from fasten_model.trunks import build_trunk


def test_the_paper_is_followed_to_the_letter() -> None:
    paper = find_preset("paper")
    assert (paper.trunk, paper.image_size, paper.epochs, paper.least_steps) == ("resnet34", 32, 70, 0)
    assert (paper.noisy_batch, paper.clean_batch) == (100, 100)
    assert (paper.optimizer, paper.lr, paper.momentum, paper.nesterov) == ("sgd", 0.1, 0.9, False)
    assert (paper.weight_decay, paper.schedule) == (5e-4, "step")
    assert (paper.crop_padding, paper.crop_fill, paper.horizontal_flip) == (4, "zero", True)


def test_only_presets_for_photographs_mirror_unless_told_to() -> None:
    assert {name for name, preset in PRESETS.items() if preset.horizontal_flip} == {"paper", "fast"}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_a_trunk_for_its_images(name: str) -> None:
    preset = find_preset(name)
    assert preset.name == name
    assert build_trunk(preset.trunk, image_size=preset.image_size).name == preset.trunk


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(DataError, match="'tiny'; choose one of small, resnet18, resnet34, paper, fast"):
        find_preset("tiny")
