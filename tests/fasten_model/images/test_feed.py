"""What the loop is fed: the right images in the right order, wherever they lie, and no thread left behind."""

import threading

import pytest
import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.images import feed as feed_module
from fasten_model.images.feed import Feed
from fasten_model.images.source import Images, TableImages

CPU = torch.device("cpu")
IMAGES = torch.randint(256, (40, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Counted(TableImages):
    """Counts what is read, and fails at image 13 where told to."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__(IMAGES)
        self.broken = broken
        self.taken: list[int] = []

    def take(self, index: Tensor) -> Tensor:
        if self.broken and 13 in index.tolist():
            raise DataError("image 13 cannot be read")
        self.taken.append(len(index))
        return super().take(index)


def epoch(batch: int = 7) -> tuple[Tensor, ...]:
    return torch.split(torch.randperm(40, generator=torch.Generator().manual_seed(1)), batch)


def feeding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fasten-ahead")]


@pytest.mark.parametrize("images", [IMAGES, TableImages(IMAGES)])
@pytest.mark.parametrize("budget", [None, 0])
def test_each_batch_is_the_images_of_its_index(images: Tensor | Images, budget: int | None) -> None:
    feed, indices = Feed(images, CPU, budget_bytes=budget), epoch()
    assert feed.resident == (budget is None)
    for _ in range(2):
        for batch, index in zip(feed.batches(indices), indices, strict=True):
            assert batch.dtype == torch.uint8
            assert torch.equal(batch, IMAGES[index])


@pytest.mark.parametrize("budget", [None, 0])
def test_an_empty_epoch_has_no_batches(budget: int | None) -> None:
    assert list(Feed(IMAGES, CPU, budget_bytes=budget).batches([])) == []


def test_an_empty_set_feeds_nothing() -> None:
    feed = Feed(TableImages(IMAGES[:0]), CPU)
    assert [batch.shape for batch in feed.batches([torch.empty(0, dtype=torch.int64)])] == [(0, 3, 4, 4)]


def test_what_lies_on_the_device_is_not_copied() -> None:
    before = IMAGES[0, 0, 0, 0].item()
    images = IMAGES.clone()
    feed = Feed(images, CPU)
    images[0, 0, 0, 0] = 255 - before
    (batch,) = feed.batches([torch.tensor([0])])
    assert batch[0, 0, 0, 0] == 255 - before


def test_a_set_that_fits_the_machine_is_left_where_it_is_by_a_cpu() -> None:
    images = Counted()
    feed = Feed(images, CPU)
    assert images.taken == []
    list(feed.batches(epoch()))
    assert sum(images.taken) == 40


def test_a_set_moved_to_a_device_is_moved_whole_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Counted()
    monkeypatch.setattr(feed_module, "_CHUNK_BYTES", 16 * IMAGES[0].nbytes)
    assert torch.equal(feed_module._move(images, CPU), IMAGES)
    assert images.taken == [16, 16, 8]


def test_a_set_one_byte_too_large_stays_where_it_is() -> None:
    assert Feed(IMAGES, CPU, budget_bytes=IMAGES.nbytes).resident
    assert not Feed(IMAGES, CPU, budget_bytes=IMAGES.nbytes - 1).resident


def test_only_a_few_batches_are_read_ahead() -> None:
    images = Counted()
    batches = Feed(images, CPU, budget_bytes=0).batches(epoch(1))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(images.taken) <= 6


def test_an_error_while_reading_reaches_who_takes_the_batch_and_no_thread_stays() -> None:
    indices = torch.split(torch.arange(40), 5)
    taken: list[Tensor] = []
    with pytest.raises(DataError, match="image 13"):
        taken.extend(Feed(Counted(broken=True), CPU, budget_bytes=0).batches(indices))
    assert len(taken) == 2, "the batches before it were good"
    assert feeding_threads() == []


def test_threads_end_with_the_epoch_and_with_one_who_leaves_early() -> None:
    feed = Feed(Counted(), CPU, budget_bytes=0)
    list(feed.batches(epoch()))
    assert feeding_threads() == []
    for _ in feed.batches(epoch()):
        assert feeding_threads()
        break
    assert feeding_threads() == []
