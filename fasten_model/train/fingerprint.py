"""Which training it is: two with the same description take the same steps."""

import hashlib
import re
from dataclasses import fields

import torch
from torch import Tensor, nn

from fasten_model.images.source import Images
from fasten_model.network import TwoHeadNetwork
from fasten_model.train.checkpoint import CheckpointConfig, CheckpointFolder, Description
from fasten_model.train.config import TrainConfig
from fasten_model.train.process import Process
from fasten_model.train.training_set import TrainingSet
from fasten_model.trunks import MODULE_PREFIX

_IMAGES = 1024
"""Images that are hashed of each set, spread over all of it: to read a large one would take longer than an epoch."""

_ANYWHERE = ("device", "compile", "cuda_graphs")
"""What may change between two processes of one training."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Where an object lies, in the `repr` of a function, say: another in every process."""


def open_checkpoint(
    checkpoint: CheckpointConfig,
    config: TrainConfig,
    training_set: TrainingSet,
    network: TwoHeadNetwork,
    process: Process,
) -> CheckpointFolder | None:
    """The folder of this training's checkpoints, in the first process; None in the others.

    network: as it is before the first step.
    """

    def opened() -> CheckpointFolder:
        return CheckpointFolder(checkpoint, {**describe(config, training_set), **describe_trunk(config, network)})

    folder = process.first(opened)
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


def describe_trunk(config: TrainConfig, network: TwoHeadNetwork) -> Description:
    """The trunk's name; where that and the seed do not tell what it begins as, a hash of its layers and weights, too.

    A module of the caller's has no name but its class, and a file of weights may be another behind the same path.
    """
    named = {"trunk": network.trunk_name}
    if config.trunk_weights is None and not network.trunk_name.startswith(MODULE_PREFIX):
        return {**named}
    return {**named, "initial trunk": _digest(network.trunk)}


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256(_ADDRESS.sub("", repr(module)).encode("utf-8", "surrogatepass"))
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor):  # whatever else a module keeps no checkpoint can hold
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _some(images: Tensor | Images) -> Tensor:
    index = torch.arange(0, len(images), max(1, len(images) // _IMAGES))
    return images[index.to(images.device)].cpu() if isinstance(images, Tensor) else images.take(index)
