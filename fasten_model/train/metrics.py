"""What an epoch was like: one transfer from the device, one line in the log."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fasten_model.errors import DataError

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
    """Mean of T̂'s diagonal at the last step: 1 − it is the noise that the method sees in the labels which T̂ is of."""
    lr: float
    """Learning rate of the last step."""
    seconds: float
    """Without what a process that was killed had spent since its last checkpoint."""


class Diverged(DataError):
    """What was trained on is sound, and the network is lost: going on from where it is would lead nowhere else."""


OnEpoch = Callable[[EpochMetrics], None]
Observer = Callable[[int, nn.Module], None]
"""Called with (epoch from 1, the network that would be used if training ended here)."""


def epoch_metrics(
    epoch: int, epochs: int, losses: Tensor, labels: tuple[Tensor, Tensor] | None, lr: float, seconds: float
) -> EpochMetrics:
    """Of losses [4] (total, forward, clean, noisy) and `TrainingStep.metrics`; `Diverged` if the loss is not finite."""
    corrected, diagonal = (losses.new_zeros(()), losses.new_ones(())) if labels is None else labels
    loss, forward, clean, noisy, share, mean_diagonal = torch.cat([losses, torch.stack([corrected, diagonal])]).tolist()
    if not math.isfinite(loss):
        raise Diverged(f"training diverged in epoch {epoch} (loss {loss}); lower lr (it was {lr:.2g})")
    return EpochMetrics(
        epoch=epoch,
        epochs=epochs,
        loss=loss,
        forward_loss=forward,
        clean_loss=clean,
        noisy_loss=noisy,
        corrected=share,
        transition_diagonal=mean_diagonal,
        lr=lr,
        seconds=seconds,
    )


def log_epoch(metrics: EpochMetrics) -> None:
    """One line for whoever watches."""
    _log.info(
        "epoch %d/%d: loss %.3f, %.1f %% of labels corrected, mean diagonal of T %.3f, %.1f s",
        metrics.epoch,
        metrics.epochs,
        metrics.loss,
        100 * metrics.corrected,
        metrics.transition_diagonal,
        metrics.seconds,
    )
