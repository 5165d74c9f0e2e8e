"""What every training run shares: network, optimiser, schedule, batches, precision, and one report an epoch."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.images.augment import crop, draw_flips, draw_shifts, normalize
from fasten_model.images.feed import Feed
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.presets import Preset
from fasten_model.train.batch import Batch, Part, StepLosses, TrainingStep
from fasten_model.train.config import TrainConfig
from fasten_model.train.plan import CleanPlan, Indices, noisy_epoch, own_share, steps_per_epoch
from fasten_model.train.process import ALONE, Process
from fasten_model.train.seeds import derived_seed, generator

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """One epoch; losses are means over its steps."""

    epoch: int
    """From 1."""
    epochs: int
    loss: float
    forward_loss: float
    """The forward-corrected loss over noisy samples; 0 for plain cross-entropy."""
    clean_loss: float
    noisy_loss: float
    corrected: float
    """Share of the noisy labels that differ from the original at the epoch's end."""
    transition_diagonal: float
    """Mean of T̂'s diagonal at the last step: 1 − it is the noise that the method believes is left."""
    lr: float
    """Learning rate of the last step."""
    seconds: float


OnEpoch = Callable[[EpochMetrics], None]
Observer = Callable[[int, nn.Module], None]
"""Called with (epoch from 1, the network that would be used if training ended here)."""


def learning_rate(step: int, steps: int, settings: Preset) -> float:
    """The rate at `step` of `steps` (from 0)."""
    done = step / steps
    if settings.schedule == "step":
        return settings.lr * (1.0 if done < 5 / 7 else 0.1 if done < 6 / 7 else 0.01)
    if settings.schedule == "triangle":
        peak, first, last = 0.23, 0.2, 0.07
        return settings.lr * (
            first + (1 - first) * done / peak if done < peak else 1 - (1 - last) * (done - peak) / (1 - peak)
        )
    warm_up = 0.15
    return settings.lr * (min(1.0, (step + 1) / (warm_up * steps)) if done < warm_up else (1 - done) / (1 - warm_up))


class Loop:
    """One run over a set of N samples. It never waits for the device within an epoch.

    Every random number is a function of the seed and of the step that it is for: nothing of it need be saved, and
    processes that train together draw the same.
    """

    def __init__(
        self, config: TrainConfig, num_classes: int, *, process: Process = ALONE, trunk: nn.Module | None = None
    ) -> None:
        """trunk: a module of the caller's, of which a copy is trained, in place of the one that `config` names."""
        self.config = config
        self.settings = config.settings()
        self.process = process
        self.device = resolve_device(config.device)
        self._on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[]):  # the caller's random state is left as it was
            torch.manual_seed(derived_seed(config.seed, "network"))
            network = build_network(
                self.settings.trunk if trunk is None else trunk,
                num_classes,
                image_size=self.settings.image_size,
                weights=config.trunk_weights,
            )
        self.network: TwoHeadNetwork = network.to(self.device).train()
        if self._on_gpu:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.network, self.settings)
        decay = config.switches().ema
        self._average = AveragedWeights(self.network, decay) if decay > 0 else None
        self._module: Callable[[Tensor], tuple[Tensor, Tensor]] = self.network
        if config.compile:
            self._module = torch.compile(self.network)

    def inputs(self, part: Part, step: int, stream: str) -> Tensor:
        """The part's images augmented and normalised, float [b,3,S,S]: the same for the same (part, step, stream)."""
        random = generator(self.config.seed, stream, step, device=self.device)
        padding = self.settings.crop_padding
        shifts = draw_shifts(part.size, padding, random)
        flips = draw_flips(part.size, random) if self.settings.horizontal_flip else None
        if part.positions is not None:
            shifts, flips = shifts[:, part.positions], None if flips is None else flips[part.positions]
        return normalize(crop(part.images, shifts, padding, self.settings.crop_fill, flips))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """float [B,3,S,S] → (clean logits, noisy logits), [B,K] each."""
        if self._on_gpu:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._on_gpu):
            clean_logits, noisy_logits = self._module(images)
        return clean_logits, noisy_logits

    @torch.no_grad()
    def forward_in_evaluation(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B,3,S,S], not augmented, BatchNorm with running statistics → (clean logits, noisy logits)."""
        self.network.eval()
        try:
            return self.forward(normalize(images))
        finally:
            self.network.train()

    def epochs(self, count: int) -> int:
        """Epochs over `count` samples: the preset's, or as many as its least number of steps takes."""
        batches = steps_per_epoch(count, self.settings.noisy_batch)
        return max(self.settings.epochs, math.ceil(self.settings.least_steps / batches))

    def run(
        self,
        step: TrainingStep,
        *,
        noisy_images: Tensor,
        clean_images: Tensor | None = None,
        clean_groups: Sequence[tuple[Tensor, int]] | None = None,
        on_epoch: OnEpoch | None = None,
        observer: Observer | None = None,
    ) -> tuple[EpochMetrics, ...]:
        """All epochs: each visits every noisy sample once, and with each batch of them comes one of the clean samples.

        clean_groups: as for `CleanPlan`; all clean samples alike unless given.
        """
        count = len(noisy_images)
        batches, epochs = steps_per_epoch(count, self.settings.noisy_batch), self.epochs(count)
        initialise = getattr(self.network.trunk, "initialise_from", None)
        if callable(initialise):  # a trunk whose first layer is computed from images
            initialise(noisy_images[:5000].to(self.device))
        noisy_feed = Feed(self.process.own(noisy_images), self.device)
        clean_feed, plan = None, None
        if clean_images is not None:
            groups = clean_groups or [(torch.arange(len(clean_images)), self.settings.clean_batch)]
            clean_feed, plan = (
                Feed(self.process.own(clean_images), self.device),
                CleanPlan(groups, seed=self.config.seed),
            )
        history = []
        for epoch in range(epochs):
            started = time.perf_counter()
            first = epoch * batches
            noisy_order = noisy_epoch(count, self.settings.noisy_batch, seed=self.config.seed, epoch=epoch)
            noisy = self._parts(noisy_feed, noisy_order)
            clean = (
                self._parts(clean_feed, [plan.batch(first + b) for b in range(batches)])
                if plan and clean_feed
                else None
            )
            totals = torch.zeros(4, device=self.device)
            lr = 0.0
            for number, part in enumerate(noisy):
                lr = learning_rate(first + number, epochs * batches, self.settings)
                batch = Batch(
                    step=first + number,
                    steps=epochs * batches,
                    lr=lr,
                    noisy=part,
                    clean=next(clean) if clean is not None else None,
                )
                losses = self._descend(step, batch)
                totals += torch.stack([losses.total.detach(), losses.forward, losses.clean, losses.noisy])
            metrics = _metrics(epoch + 1, epochs, self.process.sum(totals) / batches, step.metrics(), lr, started)
            history.append(metrics)
            if on_epoch is not None:
                on_epoch(metrics)
            if observer is not None:
                observer(epoch + 1, self.scoring_network())
        return tuple(history)

    def scoring_network(self) -> TwoHeadNetwork:
        """The network that predicts and scores: with averaged weights where they are averaged."""
        return self.network if self._average is None else self._average.network

    def trained_network(self) -> TwoHeadNetwork:
        """The same on the CPU, in evaluation mode: what training leaves."""
        return self.scoring_network().cpu().eval()

    def _parts(self, feed: Feed, order: Indices) -> Iterator[Part]:
        """Each step's part of a set, its images on the device."""
        own, places = own_share(order, self.process)
        sizes = [len(index) for index in own]
        index = torch.split(torch.cat(own).to(self.device), sizes)  # one transfer for the epoch
        positions = None if places is None else torch.split(torch.cat(places).to(self.device), sizes)
        for number, images in enumerate(feed.batches(own)):
            yield Part(
                index=index[number],
                images=images,
                positions=None if positions is None else positions[number],
                size=len(order[number]),
            )

    def _descend(self, step: TrainingStep, batch: Batch) -> StepLosses:
        for group in self.optimizer.param_groups:
            group["lr"] = batch.lr
        self.optimizer.zero_grad(set_to_none=True)
        losses = step(batch)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self._average is not None:
            self._average.update(self.network, batch.step)
        return losses


class AveragedWeights:
    """Exponential moving average of weights and BatchNorm statistics (Polyak and Juditsky, 1992)."""

    def __init__(self, network: TwoHeadNetwork, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` (from 0); the first steps are forgotten faster than `decay` says."""
        kept = min(self.decay, (1 + step) / (10 + step))
        own, new = self.network.state_dict(), network.state_dict()
        floating = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floating], [new[name] for name in floating], 1 - kept)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])


def _optimizer(network: torch.nn.Module, settings: Preset) -> torch.optim.Optimizer:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            trained,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def _metrics(
    epoch: int, epochs: int, losses: Tensor, state: tuple[Tensor, Tensor] | None, lr: float, started: float
) -> EpochMetrics:
    """One transfer from the device, one line for whoever watches; DataError where the loss is no longer finite."""
    corrected, diagonal = (losses.new_zeros(()), losses.new_ones(())) if state is None else state
    loss, forward, clean, noisy, share, mean_diagonal = torch.cat([losses, torch.stack([corrected, diagonal])]).tolist()
    if not math.isfinite(loss):
        raise DataError(f"training diverged in epoch {epoch} (loss {loss}); lower lr (it was {lr:.2g})")
    metrics = EpochMetrics(
        epoch=epoch,
        epochs=epochs,
        loss=loss,
        forward_loss=forward,
        clean_loss=clean,
        noisy_loss=noisy,
        corrected=share,
        transition_diagonal=mean_diagonal,
        lr=lr,
        seconds=time.perf_counter() - started,
    )
    _log.info(
        "epoch %d/%d: loss %.3f, %.1f %% of labels corrected, mean diagonal of T %.3f, %.1f s",
        epoch,
        epochs,
        loss,
        100 * share,
        mean_diagonal,
        metrics.seconds,
    )
    return metrics
