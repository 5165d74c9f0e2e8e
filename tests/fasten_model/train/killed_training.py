"""A small training, ended whenever one likes, and all that it leaves."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fasten_model.train import TrainConfig, Trained, TrainingSet
from fasten_model.train.checkpoint import CheckpointConfig, Progress

NOISY, CLEAN, CLASSES, SIDE, EPOCHS = 20, 9, 3, 12, 3
STEPS = 3 * EPOCHS
CONFIG = TrainConfig(epochs=EPOCHS, noisy_batch=8, clean_batch=6, image_size=SIDE, device="cpu")


class Killed(Exception):
    """Stands for a signal that no process survives."""


def samples(*, seed: int = 0, **changes: Any) -> TrainingSet:
    generator = torch.Generator().manual_seed(seed)
    fields: dict[str, Any] = {
        "noisy_images": torch.randint(256, (NOISY, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        "noisy_labels": torch.arange(NOISY) % CLASSES,
        "clean_images": torch.randint(256, (CLEAN, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        "clean_labels": torch.arange(CLEAN) % CLASSES,
        "clean_estimates": torch.ones(CLEAN, dtype=torch.bool),
        "num_classes": CLASSES,
        "votes": torch.randint(-1, CLASSES, (NOISY, 2), generator=generator),
        "held_out_images": torch.randint(256, (6, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        "held_out_labels": torch.arange(6) % CLASSES,
        "held_out_rows": torch.tensor([3, 5, -1, 11, 13, 17]),
    }
    return TrainingSet(**{**fields, **changes})


def killed_after(polls: int) -> Any:
    """A `Stop` that is never asked for, and ends the process, so to speak, after so many steps."""
    asked = 0

    def poll() -> bool:
        nonlocal asked
        asked += 1
        if asked > polls:
            raise Killed
        return False

    return nullcontext(poll)


def every_step(folder: Path) -> CheckpointConfig:
    return CheckpointConfig(folder=folder, every_seconds=0)


def outcome(trained: Trained) -> dict[str, Any]:
    """Everything that training leaves, but for the time it took."""
    return {
        "weights": {name: value.tolist() for name, value in trained.network.state_dict().items()},
        "transition": trained.transition.tolist(),
        "transitions": trained.transitions.tolist(),
        "labels": trained.corrected_labels.tolist(),
        "visits": None if trained.visits is None else trained.visits.tolist(),
        "weights of q": trained.weights,
        "history": [replace(metrics, seconds=0.0) for metrics in trained.history],
    }


def progress(step: int) -> Progress:
    return Progress(step=step, seconds=0.5, history=(), losses=torch.ones(4), tensors={"a": torch.full((3,), step)})


class Dropping(nn.Module):
    """A trunk that draws random numbers as it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE * SIDE, 8)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(torch.relu(self.layer(images.flatten(1))), 0.5, self.training)
