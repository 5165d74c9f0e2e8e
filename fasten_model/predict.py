"""Evaluation-mode logits of both heads, batch by batch."""

import torch
from torch import Tensor

from fasten_model.images.augment import normalize
from fasten_model.network import TwoHeadNetwork

PREDICT_BATCH = 512


@torch.inference_mode()
def predict_logits(network: TwoHeadNetwork, images: Tensor, *, batch: int = PREDICT_BATCH) -> tuple[Tensor, Tensor]:
    """uint8 images [N,3,S,S] → (clean logits, noisy logits), each fp32 [N,K] on the CPU.

    Images may lie anywhere: each batch is moved to the network's device, and only there turned into floats. The
    network is left in the mode (train or eval) it was found in.
    """
    device = network.clean_head.weight.device
    was_training = network.training
    network.eval()
    try:
        outputs = [network(normalize(chunk.to(device))) for chunk in torch.split(images, batch)] if len(images) else []
    finally:
        network.train(was_training)
    if not outputs:
        empty = torch.empty(0, network.clean_head.out_features)
        return empty, empty.clone()
    clean, noisy = zip(*outputs, strict=True)
    return torch.cat(clean).float().cpu(), torch.cat(noisy).float().cpu()
