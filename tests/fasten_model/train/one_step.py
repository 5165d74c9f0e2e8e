"""FastenStep over a small set, to be run as a whole or taken by the step.

Images are single pixels: a random crop of one, padded with its own edge, is itself, so augmentation changes nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fasten_model.images.augment import normalize
from fasten_model.images.source import Images
from fasten_model.train import EpochMetrics, Method, TrainConfig, TrainingSet
from fasten_model.train.batch import Batch, Part, StepLosses
from fasten_model.train.fasten_step import FastenStep
from fasten_model.train.loop import Loop

EPOCHS = 4
PLAIN = Method(
    forwards="separate", estimator="clean_batch", pairs=False, annotators=False, correction="none",
    clean_loss_weight=0.5, visits=False,
)  # fmt: skip
"""Switches of which tests turn one or two."""


def colour_trunk(*, batch_norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        norm = [nn.BatchNorm1d(6)] if batch_norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(3, 6), *norm, nn.Tanh())


def pixels(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(256, (count, 3, 1, 1), dtype=torch.uint8, generator=generator)


def random_set(seed: int = 0, *, num_classes: int = 3, noisy: int = 18, clean: int = 12, **changes: Any) -> TrainingSet:
    """Three annotators, some of whom said nothing; a quarter of the clean set was not drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def labels(lowest: int, *shape: int) -> Tensor:
        return torch.randint(lowest, num_classes, shape, generator=generator)

    fields: dict[str, Any] = {
        "noisy_images": pixels(noisy, generator),
        "noisy_labels": labels(0, noisy),
        "votes": labels(-1, noisy, 3),
        "clean_images": pixels(clean, generator),
        "clean_labels": labels(0, clean),
        "clean_estimates": torch.arange(clean) % 4 != 0,
        "clean_votes": labels(-1, clean, 3),
        "num_classes": num_classes,
    }
    return TrainingSet(**{**fields, **changes})


def in_memory(images: Tensor | Images | None) -> Tensor:
    assert isinstance(images, Tensor)
    return images


@dataclass
class Run:
    """A loop and its step over a set, to be run as a whole or taken by the step."""

    data: TrainingSet
    loop: Loop
    step: FastenStep

    @classmethod
    def of(cls, data: TrainingSet, method: Method, *, batch_norm: bool = False) -> "Run":
        config = TrainConfig(
            preset="resnet34", image_size=1, epochs=EPOCHS, noisy_batch=6, clean_batch=4, lr=0.3, device="cpu",
            horizontal_flip=False, method=method,
        )  # fmt: skip
        loop = Loop(config, data.num_classes, trunk=colour_trunk(batch_norm=batch_norm))
        return cls(data, loop, FastenStep(loop, data, config))

    @property
    def noisy(self) -> Tensor:
        return in_memory(self.data.noisy_images)

    @property
    def clean(self) -> Tensor:
        return in_memory(self.data.clean_images)

    def whole(self) -> tuple[EpochMetrics, ...]:
        return self.loop.run(self.step, noisy_images=self.data.noisy_images, clean_images=self.data.clean_images)

    def once(self, noisy: list[int], clean: list[int], step: int = 0) -> StepLosses:
        """The step's losses, without descending; `step` of those of a whole run."""

        def part(images: Tensor, index: list[int]) -> Part:
            return Part(index=torch.tensor(index), images=images[index], positions=None, size=len(index))

        noisy_part, clean_part = part(self.noisy, noisy), part(self.clean, clean)
        steps = EPOCHS * len(self.data.noisy_labels) // 6
        return self.step(Batch(step=step, steps=steps, lr=0.1, noisy=noisy_part, clean=clean_part))

    def gradients(self, losses: StepLosses) -> dict[str, Tensor]:
        """Of every parameter; 0 where it is not trained."""
        named = dict(self.loop.network.named_parameters())
        trained = {name: value for name, value in named.items() if value.requires_grad}
        found = torch.autograd.grad(losses.total, list(trained.values()), materialize_grads=True)
        return {
            **{name: torch.zeros_like(value) for name, value in named.items()},
            **dict(zip(trained, found, strict=True)),
        }

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.loop.forward(normalize(images))


def gradients_move(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)
