"""What is kept of a training's samples, and found again by sample, label and image."""

import pytest
import torch
from torch import Tensor

from fasten_model.images.source import Images, JoinedImages, TableImages
from fasten_model.stacking import Weights
from fasten_model.visited import Visited

MANY = 300
"""More than are hashed at a time, and no multiple of it."""
IDS = tuple(f"s-{number}" for number in range(MANY))
LABELS = torch.arange(MANY) % 3
IMAGES = torch.randint(256, (MANY, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
MEANS = -torch.rand(MANY, 3, generator=torch.Generator().manual_seed(0)) * 9
VISITED = Visited.of(IDS, LABELS, IMAGES, MEANS, Weights())


def test_samples_are_found_in_any_order_and_their_means_to_half_precision() -> None:
    order = torch.randperm(MANY, generator=torch.Generator().manual_seed(1))
    found, means = VISITED.find([IDS[place] for place in order.tolist()], LABELS[order], IMAGES[order])
    assert found.all()
    assert torch.equal(means, MEANS[order].half().double())


def test_another_label_or_another_sample_is_not_known() -> None:
    images = IMAGES[[0, 1, 50, 0]]
    found, means = VISITED.find([IDS[0], IDS[1], "other", "0 s-0"], torch.tensor([0, 2, 2, 0]), images)
    assert found.tolist() == [True, False, False, False]
    assert (means[1:] == 0).all()


def test_another_image_under_the_same_id_and_label_is_not_known() -> None:
    images = IMAGES.clone()
    images[7, 2, 3, 3] ^= 1  # its last value, by the least
    images[[280, 283]] = images[[283, 280]]  # of one label
    found, means = VISITED.find(IDS, LABELS, images)
    assert (~found).nonzero().flatten().tolist() == [7, 280, 283]
    assert (means[~found] == 0).all()


@pytest.mark.parametrize(
    "images",
    [
        TableImages(IMAGES.flip(0), torch.arange(MANY).flip(0)),
        JoinedImages(TableImages(IMAGES[:270]), TableImages(IMAGES[270:])),
        IMAGES.contiguous(memory_format=torch.channels_last),
        IMAGES.repeat_interleave(2, dim=3)[..., ::2],
    ],
    ids=["rows of a table", "of two sets", "channels last", "every other column"],
)
def test_keys_are_of_the_images_however_they_are_kept(images: Tensor | Images) -> None:
    assert torch.equal(Visited.of(IDS, LABELS, images, MEANS, Weights()).keys, VISITED.keys)
    assert VISITED.find(IDS, LABELS, images)[0].all()


def test_each_image_is_read_once_and_few_at_a_time() -> None:
    read: list[int] = []

    class Told(TableImages):
        def take(self, index: Tensor) -> Tensor:
            read.append(len(index))
            return super().take(index)

        def __getitem__(self, chosen: slice | Tensor) -> "Told":
            return Told(self._table, self._rows[chosen])

    assert VISITED.find(IDS, LABELS, Told(IMAGES))[0].all()
    assert sum(read) == MANY
    assert max(read) < MANY


def test_any_text_is_an_id() -> None:
    odd = ("a\udcff", "", "ü", "0 s-0")  # the first as a file name that is no UTF-8 comes out of os.listdir
    kept = Visited.of(odd, LABELS[:4], IMAGES[:4], MEANS[:4], Weights())
    assert kept.find(odd, LABELS[:4], IMAGES[:4])[0].all()


def test_of_no_samples_none_is_known() -> None:
    none = Visited.of((), LABELS[:0], IMAGES[:0], MEANS[:0], Weights())
    found, means = none.find(IDS, LABELS, IMAGES)
    assert not found.any()
    assert means.shape == (MANY, 3)
    assert VISITED.find((), LABELS[:0], TableImages(IMAGES[:0]))[1].shape == (0, 3)
