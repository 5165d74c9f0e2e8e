"""A set of images that is read row by row is, from outside, the tensor of those rows."""

import pytest
import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.images.source import Images, TableImages, as_images, in_memory, joined

TABLE = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
ROWS = torch.tensor([4, 0, 0, 2])


def test_rows_of_a_table_look_like_the_tensor_of_them() -> None:
    images, tensor = TableImages(TABLE, ROWS), TABLE[ROWS]
    assert isinstance(images, Images)
    assert (len(images), images.shape, images.dtype, images.nbytes) == (4, (4, 3, 2, 2), torch.uint8, tensor.nbytes)
    index = torch.tensor([3, 3, 1])
    assert torch.equal(images.take(index), tensor[index])


@pytest.mark.parametrize("chosen", [torch.tensor([2, 0]), torch.tensor([False, True, False, True]), slice(1, None, 2)])
def test_a_choice_of_images_is_a_set_of_its_own(chosen: slice | Tensor) -> None:
    images = TableImages(TABLE, ROWS)[chosen]
    assert isinstance(images, Images)
    assert torch.equal(images.take(torch.arange(2)), TABLE[ROWS][chosen])
    assert torch.equal(images[torch.tensor([1])].take(torch.tensor([0])), TABLE[ROWS][chosen][1:])


@pytest.mark.parametrize("chosen", [torch.tensor([6, 0]), torch.arange(9) % 4 == 1, slice(2, 9, 3)])
def test_two_sets_joined_are_one(chosen: slice | Tensor) -> None:
    images = joined(TABLE, TableImages(TABLE, ROWS))
    whole = torch.cat([TABLE, TABLE[ROWS]])
    assert isinstance(images, Images)
    assert not isinstance(images, Tensor)
    assert (len(images), images.shape, images.dtype, images.nbytes) == (9, (9, 3, 2, 2), torch.uint8, whole.nbytes)
    index = torch.tensor([8, 4, 5, 5, 0])
    assert torch.equal(images.take(index), whole[index])
    assert torch.equal(in_memory(images[chosen]), whole[chosen])
    assert images.take(index[:0]).shape == (0, 3, 2, 2)
    assert torch.equal(in_memory(joined(TABLE, TABLE[:2])), torch.cat([TABLE, TABLE[:2]]))
    assert joined(TABLE, TABLE[:0]) is TABLE
    with pytest.raises(
        DataError, match=r"must be uint8 of one side, got uint8 \[5, 3, 2, 2\] and uint8 \[1, 3, 4, 4\]"
    ):
        joined(TABLE, torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_a_tensor_is_the_table_of_all_its_rows_and_copied_by_nobody() -> None:
    images = as_images(TABLE)
    assert torch.equal(images.take(torch.arange(5)), TABLE)
    assert as_images(images) is images


def test_few_enough_images_are_read_into_memory() -> None:
    assert torch.equal(in_memory(TableImages(TABLE, ROWS)), TABLE[ROWS])
    assert in_memory(TABLE) is TABLE


def test_no_images_are_a_set_too() -> None:
    none = TableImages(TABLE[:0])
    assert (len(none), none.shape, none.nbytes) == (0, (0, 3, 2, 2), 0)
    assert none.take(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 2, 2)
