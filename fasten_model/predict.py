"""Evaluation-mode logits of both heads, batch by batch, at the speed of the bare forward pass."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fasten_model.device import enough_memory
from fasten_model.folding import folded
from fasten_model.images.augment import normalize
from fasten_model.images.feed import Feed
from fasten_model.images.source import Images
from fasten_model.modes import in_evaluation

PREDICT_BATCH = 512
"""Images that a GPU scores at once."""
CPU_BATCH = 128
"""On a CPU small trunks are as good as fastest with it, and large ones take no longer an image than with fewer."""
FOLD_FROM = 2048
"""From so many images on, a CPU folds the network first (`fasten_model.folding`)."""
_FOLD_BY = 2
_CHUNK = 2**16
"""Images whose logits are gathered on the device before they are copied: one wait for the device each."""


@enough_memory(otherwise="free it of other programs, or score on the CPU")
@torch.inference_mode()
def predict_logits(network: nn.Module, images: Tensor | Images, *, batch: int | None = None) -> tuple[Tensor, Tensor]:
    """uint8 images [N,3,S,S] → (clean logits, noisy logits), each fp32 [N,K] on the CPU.

    `network` maps normalised images to that pair, as `TwoHeadNetwork` does; each part of it is left in the mode (train
    or eval) it was found in. Images may lie anywhere: each batch (128 on a CPU, 512 on a GPU, unless told) goes to the
    network's device as bytes, read ahead of the one being scored, and only there turns into floats. On a GPU the
    network runs under bfloat16 autocast; on a CPU its BatchNorms are folded into its convolutions where there is much
    to score.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with in_evaluation(network):
        return _predict(network, images, device, batch or (PREDICT_BATCH if device.type == "cuda" else CPU_BATCH))


def _predict(network: nn.Module, images: Tensor | Images, device: torch.device, batch: int) -> tuple[Tensor, Tensor]:
    if len(images) == 0:  # one black image tells K
        clean, noisy = _logits(network, torch.zeros(1, *images.shape[1:], dtype=torch.uint8, device=device))
        return clean[:0].cpu(), noisy[:0].cpu()
    scored: list[tuple[Tensor, Tensor]] = []
    chunk: list[tuple[Tensor, Tensor]] = []
    fold = device.type == "cpu" and len(images) >= FOLD_FROM
    # Entered once: it keeps the weights that it has cast for as long as it lasts.
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for uint8 in _batches(images, device, batch):
            if fold:
                network, fold = folded(network, normalize(uint8[:_FOLD_BY])), False
            chunk.append(_logits(network, uint8))
            if len(chunk) * batch >= _CHUNK:
                scored.append(_to_cpu(chunk))
                chunk = []
    return _to_cpu([*scored, _to_cpu(chunk)] if chunk else scored)


def _batches(images: Tensor | Images, device: torch.device, batch: int) -> Iterator[Tensor]:
    """The images in their order, uint8 on the device."""
    if isinstance(images, Tensor) and images.device == device:  # where they lie: nothing is copied
        yield from torch.split(images, batch)
        return
    # Each image is needed once: moving the whole set to a GPU first would only put off the start.
    feed = Feed(images, device, budget_bytes=None if device.type == "cpu" else 0)
    yield from feed.batches(torch.split(torch.arange(len(images)), batch))


def _logits(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [B,3,S,S] on the device → logits of both heads, fp32 [B,K], there."""
    clean, noisy = network(normalize(images))
    return clean.float(), noisy.float()


def _to_cpu(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    clean, noisy = zip(*pairs, strict=True)
    return torch.cat(clean).cpu(), torch.cat(noisy).cpu()
