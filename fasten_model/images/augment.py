"""Augmentation as pure tensor functions on the device that holds the images; one draw per image."""

import torch
from torch import Tensor
from torch.nn import functional


def normalize(images: Tensor) -> Tensor:
    """uint8 [B,3,S,S] in 0…255 → float in about ±2, with the same constants for every data set and every model."""
    return (images.float() - 127.5) / 64


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Each image of [B,3,S,S] shifted by up to ±padding pixels both ways; the gap is filled with its own edge."""
    if padding == 0:
        return images
    count, channels, height, width = images.shape
    padded = functional.pad(images.float(), [padding] * 4, mode="replicate")
    shift = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=images.device)
    rows = shift[0] + torch.arange(height, device=images.device)  # [B, S]
    columns = shift[1] + torch.arange(width, device=images.device)  # [B, S]
    sample = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]].to(images.dtype)


def random_horizontal_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of [B,3,S,S] mirrored left to right with probability ½."""
    flip = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)
