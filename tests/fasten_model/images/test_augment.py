"""Augmentation against slicing by hand."""

import torch

from fasten_model.images.augment import normalize, random_crop, random_horizontal_flip


def images(count: int = 50, side: int = 6) -> torch.Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_each_crop_is_a_window_of_the_padded_image_and_every_window_occurs() -> None:
    originals, padding = images(400), 1
    crops = random_crop(originals, padding, torch.Generator().manual_seed(0))
    assert crops.dtype == torch.uint8
    seen = set()
    for original, crop in zip(originals, crops, strict=True):
        padded = torch.nn.functional.pad(original.float()[None], [1, 1, 1, 1], mode="replicate")[0].byte()
        windows = {(top, left): padded[:, top : top + 6, left : left + 6] for top in range(3) for left in range(3)}
        matches = [where for where, window in windows.items() if torch.equal(window, crop)]
        assert matches
        seen.update(matches)
    assert len(seen) == 9


def test_no_padding_changes_nothing() -> None:
    assert torch.equal(random_crop(images(), 0, torch.Generator()), images())


def test_each_flip_mirrors_a_whole_image_or_leaves_it() -> None:
    originals = images()
    flipped = random_horizontal_flip(originals, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(after, before.flip(2)) for before, after in zip(originals, flipped, strict=True)]
    same = [torch.equal(after, before) for before, after in zip(originals, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 10 < sum(mirrored) < 40


def test_the_same_seed_gives_the_same_augmentation() -> None:
    one, two = (random_crop(images(), 2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_normalized_images_are_centred_floats() -> None:
    assert normalize(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-127.5 / 64, 127.5 / 64]
