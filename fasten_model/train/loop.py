"""What every training run shares: network, optimiser, schedule, batches, precision, and one report an epoch."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.images.augment import normalize, random_crop, random_horizontal_flip
from fasten_model.network import build_network
from fasten_model.presets import Preset
from fasten_model.train.config import TrainConfig

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


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLosses:
    """The losses of one step, scalars on the device; only `total` is descended."""

    total: Tensor
    forward: Tensor
    clean: Tensor
    noisy: Tensor


Step = Callable[[Tensor], StepLosses]
"""Index of the step's samples, int64 [B] → losses."""
State = Callable[[], tuple[Tensor, Tensor]]
"""() → (share corrected, mean diagonal of T̂), scalars on the device."""
OnEpoch = Callable[[EpochMetrics], None]


def learning_rate(step: int, steps: int, settings: Preset) -> float:
    """The rate at `step` of `steps` (from 0)."""
    done = step / steps
    if settings.schedule == "step":
        return settings.lr * (1.0 if done < 5 / 7 else 0.1 if done < 6 / 7 else 0.01)
    warm_up = 0.15
    return settings.lr * (min(1.0, (step + 1) / (warm_up * steps)) if done < warm_up else (1 - done) / (1 - warm_up))


class Loop:
    """One run over a set of N samples. It never waits for the device within an epoch."""

    def __init__(self, config: TrainConfig, num_classes: int) -> None:
        self.settings = config.settings()
        self.horizontal_flip = config.horizontal_flip
        self.device = resolve_device(config.device)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self._on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[]):  # the caller's random state is left as it was
            torch.manual_seed(config.seed)
            network = build_network(config.preset, num_classes)
        self.network = network.to(self.device).train()
        if self._on_gpu:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.network, self.settings)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B,3,S,S] → augmented, normalised, through the network: (clean logits, noisy logits), [B,K] each."""
        images = random_crop(images, self.settings.crop_padding, self.generator)
        if self.horizontal_flip:
            images = random_horizontal_flip(images, self.generator)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._on_gpu):
            clean_logits, noisy_logits = self.network(normalize(images))
        return clean_logits, noisy_logits

    def cycle(self, count: int, batch: int) -> Iterator[Tensor]:
        """Endless batches of exactly `batch` indices below `count`, one shuffled pass after the other."""
        pool = torch.empty(0, dtype=torch.int64, device=self.device)
        while True:
            while len(pool) < batch:
                pool = torch.cat([pool, self._shuffled(count)])
            yield pool[:batch]
            pool = pool[batch:]

    def run(self, count: int, step: Step, state: State, on_epoch: OnEpoch | None) -> tuple[EpochMetrics, ...]:
        """All epochs: each visits every one of `count` samples once, in batches that differ by one at the most."""
        batches = math.ceil(count / self.settings.noisy_batch)
        epochs = max(self.settings.epochs, math.ceil(self.settings.least_steps / batches))
        history = []
        for epoch in range(epochs):
            started = time.perf_counter()
            totals = torch.zeros(4, device=self.device)
            lr = 0.0
            for number, index in enumerate(self._shuffled(count).tensor_split(batches)):
                lr = learning_rate(epoch * batches + number, epochs * batches, self.settings)
                losses = step(index)
                self._descend(losses.total, lr)
                totals += torch.stack([losses.total, losses.forward, losses.clean, losses.noisy]).detach()
            metrics = _metrics(epoch + 1, epochs, totals / batches, state(), lr, started)
            history.append(metrics)
            if on_epoch is not None:
                on_epoch(metrics)
        return tuple(history)

    def _shuffled(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator, device=self.device)

    def _descend(self, loss: Tensor, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def _optimizer(network: torch.nn.Module, settings: Preset) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def _metrics(
    epoch: int, epochs: int, losses: Tensor, state: tuple[Tensor, Tensor], lr: float, started: float
) -> EpochMetrics:
    """One transfer from the device, one line for whoever watches; DataError where the loss is no longer finite."""
    corrected, diagonal = (value.to(losses.device) for value in state)
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
