"""The loop that every method runs in: what a step is given, and what is done with what it gives back."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fasten_model.images.source import TableImages
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, Part, StepLosses, TrainingStep
from fasten_model.train.loop import Loop
from fasten_model.train.optimizer import learning_rate
from fasten_model.train.process import SharedError

SIDE, COUNT = 12, 21
CONFIG = TrainConfig(
    epochs=2, noisy_batch=8, clean_batch=4, image_size=SIDE, device="cpu", horizontal_flip=True, seed=2
)
IMAGES = torch.randint(256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Watching(TrainingStep):
    """Descends the sum of the logits, and remembers its batches."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.batches: list[Batch] = []
        self.rates: list[float] = []

    def __call__(self, batch: Batch) -> StepLosses:
        self.batches.append(batch)
        self.rates += [group["lr"] for group in self.loop.optimizer.param_groups]
        logits, _ = self.loop.forward(self.loop.inputs(batch.noisy, batch.step, "noisy"))
        loss, one = logits.mean(), torch.ones(())
        return StepLosses(total=loss, forward=one, clean=2 * one, noisy=one * batch.step)


def watched(**arguments: Any) -> tuple[Watching, Any]:
    loop = Loop(CONFIG, 3)
    step = Watching(loop)
    return step, loop.run(step, noisy_images=IMAGES, **arguments)


def test_each_step_has_its_number_its_rate_and_its_images() -> None:
    step, history = watched(clean_images=IMAGES[:5])
    assert [batch.step for batch in step.batches] == list(range(6))
    assert {batch.steps for batch in step.batches} == {6}
    expected = [learning_rate(number, 6, CONFIG.settings()) for number in range(6)]
    assert [batch.lr for batch in step.batches] == expected == step.rates
    for batch in step.batches:
        assert batch.clean is not None
        assert batch.clean.size == 4
        for part in (batch.noisy, batch.clean):
            assert part.positions is None
            assert part.size == len(part.index) == len(part.images)
            assert torch.equal(part.images, IMAGES[part.index])
    assert [metrics.lr for metrics in history] == [expected[2], expected[5]]
    assert [(metrics.forward_loss, metrics.clean_loss, metrics.noisy_loss) for metrics in history] == [
        (1, 2, pytest.approx(1)),
        (1, 2, pytest.approx(4)),
    ]


def test_without_clean_images_there_is_no_clean_part() -> None:
    step, _ = watched()
    assert all(batch.clean is None for batch in step.batches)


def test_images_that_are_no_tensor_make_the_same_steps() -> None:
    loop = Loop(CONFIG, 3)
    step, (of_tensor, _) = Watching(loop), watched()
    loop.run(step, noisy_images=TableImages(IMAGES))
    for one, other in zip(step.batches, of_tensor.batches, strict=True):
        assert torch.equal(one.noisy.images, other.noisy.images)


def test_a_share_of_a_batch_is_augmented_as_in_the_whole() -> None:
    loop = Loop(CONFIG, 3)
    index = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))[:8]
    whole = loop.inputs(part(index, None), 5, "noisy")
    for chosen in (torch.tensor([1, 4, 6]), torch.tensor([], dtype=torch.int64), torch.arange(8)):
        own = loop.inputs(part(index[chosen], chosen), 5, "noisy")
        assert torch.equal(own, whole[chosen])


def part(index: Tensor, positions: Tensor | None) -> Part:
    return Part(index=index, images=IMAGES[index], positions=positions, size=8)


def test_another_step_or_stream_is_augmented_otherwise_and_the_same_one_alike() -> None:
    loop, whole = Loop(CONFIG, 3), part(torch.arange(8), None)
    first = loop.inputs(whole, 0, "noisy")
    assert torch.equal(loop.inputs(whole, 0, "noisy"), first)
    assert not torch.equal(loop.inputs(whole, 1, "noisy"), first)
    assert not torch.equal(loop.inputs(whole, 0, "clean"), first)


def test_a_forward_in_evaluation_changes_no_statistics_and_leaves_training_mode() -> None:
    loop = Loop(CONFIG, 3)
    before = {name: value.clone() for name, value in loop.network.named_buffers()}
    loop.forward_in_evaluation(IMAGES[:4])
    assert loop.network.training
    assert all(torch.equal(value, before[name]) for name, value in loop.network.named_buffers())
    loop.forward(torch.rand(4, 3, SIDE, SIDE))
    assert any(not torch.equal(value, before[name]) for name, value in loop.network.named_buffers())


class Losing(Watching):
    """Its last step leaves something in the network that is no number."""

    def __init__(self, loop: Loop, lost: Tensor) -> None:
        super().__init__(loop)
        self.lost = lost

    def __call__(self, batch: Batch) -> StepLosses:
        losses = super().__call__(batch)
        if batch.step == batch.steps - 1:
            self.lost.data[0] = torch.inf
        return losses


class Masked(nn.Module):
    """Adds a mask to its features of colour, of which the last is never let through."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf]))
        self.unheard = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return (images.mean(dim=(2, 3)) + self.mask).softmax(dim=1)


def test_what_the_last_step_loses_is_found_where_no_loss_is_computed_any_more() -> None:
    trunk = Masked()
    loop = Loop(CONFIG, 3, trunk=trunk)
    loop.run(Watching(loop), noisy_images=IMAGES)  # −∞ that was there before is none of the training's
    for name in ("trunk.unheard", "trunk.mask"):
        loop = Loop(CONFIG, 3, trunk=trunk)
        lost = {**dict(loop.network.named_parameters()), **dict(loop.network.named_buffers())}[name]
        with pytest.raises(SharedError, match="diverged in step 5, its last; lower lr"):
            loop.run(Losing(loop, lost), noisy_images=IMAGES)


def test_a_failing_step_leaves_torchs_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()

    class Failing(TrainingStep):
        def __call__(self, batch: Batch) -> StepLosses:
            torch.rand(batch.step + 1)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Loop(CONFIG, 3).run(Failing(), noisy_images=IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
