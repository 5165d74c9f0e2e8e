"""Augmentation against slicing by hand."""

import pytest
import torch
from torch.nn import functional

from fasten_model.images.augment import Fill, crop, draw_flips, draw_shifts, flip, normalize


def images(count: int = 50, side: int = 6) -> torch.Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("fill", "mode"), [("edge", "replicate"), ("zero", "constant")])
@pytest.mark.parametrize("padding", [1, 3])
def test_each_crop_is_its_window_of_the_padded_image(fill: Fill, mode: str, padding: int) -> None:
    originals, shifts = images(400), draw_shifts(400, padding, drawn())
    crops = crop(originals, shifts, padding, fill)
    assert crops.dtype == torch.uint8
    padded = functional.pad(originals.float(), [padding] * 4, mode=mode).byte()
    for number, (top, left) in enumerate(shifts.t().tolist()):
        assert torch.equal(crops[number], padded[number, :, top : top + 6, left : left + 6])


def test_every_shift_occurs_and_none_beyond_the_padding() -> None:
    shifts = draw_shifts(400, 1, drawn())
    assert (shifts.shape, shifts.dtype) == ((2, 400), torch.int64)
    assert {tuple(pair) for pair in shifts.t().tolist()} == {(row, column) for row in range(3) for column in range(3)}


def test_a_crop_of_one_side_longer_than_the_other_keeps_its_shape() -> None:
    wide = images(4, 8)[:, :, :5]
    centre = torch.full((2, 4), 2)
    assert torch.equal(crop(wide, centre, 2), wide)


def test_no_padding_changes_nothing() -> None:
    assert torch.equal(crop(images(), draw_shifts(50, 0, drawn()), 0), images())


def test_a_part_of_a_batch_with_its_own_draws_is_that_part_of_the_whole() -> None:
    shifts, flips, part = draw_shifts(50, 2, drawn()), draw_flips(50, drawn()), torch.tensor([3, 40, 7])
    whole = flip(crop(images(), shifts, 2), flips)
    assert torch.equal(flip(crop(images()[part], shifts[:, part], 2), flips[part]), whole[part])


def test_a_flip_mirrors_exactly_the_images_it_names() -> None:
    flips = draw_flips(50, drawn())
    assert 10 < int(flips.sum()) < 40
    for before, after, mirrored in zip(images(), flip(images(), flips), flips.tolist(), strict=True):
        assert torch.equal(after, before.flip(2) if mirrored else before)


def test_the_same_seed_gives_the_same_draws() -> None:
    assert torch.equal(draw_shifts(50, 2, drawn(3)), draw_shifts(50, 2, drawn(3)))
    assert not torch.equal(draw_shifts(50, 2, drawn(3)), draw_shifts(50, 2, drawn(4)))


def test_normalized_images_are_centred_floats_and_the_originals_stay() -> None:
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert normalize(extremes).flatten().tolist() == [-127.5 / 64, 127.5 / 64]
    assert extremes.flatten().tolist() == [0, 255]
    floats = torch.full((1, 1, 1, 1), 127.5)
    normalize(floats)
    assert floats.item() == 127.5


def test_normalized_images_are_channels_last() -> None:
    assert normalize(images()).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fill", ["edge", "zero"])
@pytest.mark.parametrize("padding", [0, 2])
def test_flipping_while_cropping_is_flipping_afterwards(fill: Fill, padding: int) -> None:
    shifts, flips = draw_shifts(50, padding, drawn()), draw_flips(50, drawn())
    both = crop(images(), shifts, padding, fill, flips)
    assert torch.equal(both, flip(crop(images(), shifts, padding, fill), flips))


def test_channels_last_images_are_cropped_alike() -> None:
    shifts = draw_shifts(50, 2, drawn())
    last = images().contiguous(memory_format=torch.channels_last)
    assert torch.equal(crop(last, shifts, 2), crop(images(), shifts, 2))
