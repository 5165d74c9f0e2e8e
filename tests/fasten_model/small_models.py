"""A model that tests save, load and damage."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fasten_model.model import JSON_FILE, Model
from fasten_model.network import build_network


def small_model(
    seed: int = 0,
    classes: tuple[str, ...] = ("cat", "dög <b>", "ant"),
    trunk: str | nn.Module = "small",
    image_size: int = 16,
) -> Model:
    torch.manual_seed(seed)
    num_classes = len(classes)
    return Model(
        network=build_network(trunk, num_classes, image_size=image_size).eval(),
        classes=classes,
        preset="small",
        image_size=image_size,
        temperature=1.7,
        transition=torch.softmax(torch.randn(num_classes, num_classes), dim=1),
        evidence=0.7,
        rho=0.8,
        metadata={"snapshot": "abc"},
    )


def edit(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / JSON_FILE).read_text())
    (folder / JSON_FILE).write_text(json.dumps({**description, **changes}))
