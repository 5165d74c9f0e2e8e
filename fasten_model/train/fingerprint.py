"""Which training it is: two with the same description take the same steps."""

import hashlib
from dataclasses import fields

import torch
from torch import Tensor

from fasten_model.images.source import Images
from fasten_model.train.checkpoint import CheckpointConfig, CheckpointFolder, Description
from fasten_model.train.config import TrainConfig
from fasten_model.train.process import Process
from fasten_model.train.training_set import TrainingSet

_IMAGES = 1024
"""Images that are hashed of each set, spread over all of it: to read a large one would take longer than an epoch."""

_ANYWHERE = ("device", "compile", "cuda_graphs")
"""What may change between two processes of one training."""


def open_checkpoint(
    checkpoint: CheckpointConfig, config: TrainConfig, training_set: TrainingSet, trunk_name: str, process: Process
) -> CheckpointFolder | None:
    """The folder of this training's checkpoints, in the first process; None in the others."""
    description = {**describe(config, training_set), "trunk": trunk_name}
    folder = process.first(lambda: CheckpointFolder(checkpoint, description))
    return folder if process.is_first else None


def describe(config: TrainConfig, training_set: TrainingSet) -> Description:
    """Every choice that matters to a step, and a hash of the data: all labels, and some of the images."""
    choices = {name: value for name, value in config.described().items() if name not in _ANYWHERE}
    digest = hashlib.sha256()
    for field in fields(training_set):
        value = getattr(training_set, field.name)
        if value is None or isinstance(value, int):
            digest.update(f"{field.name} {value}".encode())
        else:
            tensor = _some(value) if field.name.endswith("images") else value
            digest.update(f"{field.name} {tuple(value.shape)}".encode() + tensor.cpu().numpy().tobytes())
    return {**choices, "data": digest.hexdigest()[:16]}


def _some(images: Tensor | Images) -> Tensor:
    index = torch.arange(0, len(images), max(1, len(images) // _IMAGES))
    return images[index.to(images.device)].cpu() if isinstance(images, Tensor) else images.take(index)
