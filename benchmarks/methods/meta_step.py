"""What the meta-learning baselines' steps share: the batch as they see it, and one training by such a step.

Shapes: N noisy samples, B and C the batches of noisy and clean ones, K classes, S image side.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.methods.base import Observer, Outcome, Problem, beliefs_of
from benchmarks.methods.plain import without_remedies
from benchmarks.methods.virtual_step import VirtualStep, virtual_rate
from fasten_model.network import TwoHeadNetwork
from fasten_model.train import TrainConfig
from fasten_model.train.batch import Batch, StepLosses, TrainingStep
from fasten_model.train.loop import Loop
from fasten_model.train.plan import steps_per_epoch
from fasten_model.train.seeds import derived_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """One step's samples, augmented and on the device."""

    index: Tensor
    """int64 [B]: numbers of the noisy samples."""
    images: Tensor
    """float [B,3,S,S]."""
    labels: Tensor
    """int64 [B]: as given."""
    clean_images: Tensor
    """float [C,3,S,S]."""
    clean_labels: Tensor
    """int64 [C]."""
    rate: float
    """η of the virtual step."""


class MetaStep(TrainingStep):
    """A step that asks the clean batch how to learn from the noisy one."""

    def __init__(self, problem: Problem, config: TrainConfig) -> None:
        self.problem = problem
        self.loop = Loop(without_remedies(config), problem.num_classes)
        self.virtual = VirtualStep(self.loop.network)
        self.noisy_labels = problem.noisy_labels.to(self.loop.device)
        self.clean_labels = problem.clean_labels.to(self.loop.device)

    def train(self, observer: Observer | None) -> Outcome:
        """The whole training."""
        self.loop.run(
            self,
            noisy_images=self.problem.noisy_images,
            clean_images=self.problem.clean_images,
            observer=observer,
        )
        network = self.loop.trained_network().to(self.loop.device)
        count, settings = len(self.noisy_labels), self.loop.settings
        batches = steps_per_epoch(count, settings.noisy_batch)
        return Outcome(
            network=network,
            beliefs=self.beliefs(network),
            transition=self.learnt_transition(),
            passes=self.passes(batches * settings.clean_batch / count),
        )

    def beliefs(self, network: TwoHeadNetwork) -> Tensor:
        """`Outcome.beliefs` of the trained method: the classifier's own p, unless it says otherwise."""
        return beliefs_of(network, self.problem.noisy_images)

    def learnt_transition(self) -> Tensor | None:
        """`Outcome.transition`."""
        return None

    @abstractmethod
    def passes(self, clean_share: float) -> float:
        """`Outcome.passes`, where a step sees `clean_share` times as many clean images as noisy ones."""

    def noisy(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(images float [B,3,S,S], labels int64 [B]) of the noisy batch."""
        return self.loop.inputs(batch.noisy, batch.step, "noisy"), self.noisy_labels[batch.noisy.index]

    def draw(self, batch: Batch) -> Drawn:
        """Both batches."""
        assert batch.clean is not None
        images, labels = self.noisy(batch)
        return Drawn(
            index=batch.noisy.index,
            images=images,
            labels=labels,
            clean_images=self.loop.inputs(batch.clean, batch.step, "clean"),
            clean_labels=self.clean_labels[batch.clean.index],
            rate=virtual_rate(self.loop.settings, batch.lr),
        )


def step_losses(total: Tensor, clean: Tensor) -> StepLosses:
    """total: over the noisy batch, descended. clean: over the clean batch, reported."""
    return StepLosses(total=total, forward=torch.zeros_like(clean), clean=clean, noisy=total.detach())


def fresh(build: Callable[[], nn.Module], loop: Loop) -> nn.Module:
    """A meta-network with first weights by the run's seed, on its device; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(loop.config.seed, "meta-network"))
        return build().to(loop.device)
