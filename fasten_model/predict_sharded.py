"""Scoring by all the processes that train together."""

from torch import Tensor, nn

from fasten_model.images.source import Images
from fasten_model.predict import predict_logits
from fasten_model.train.process import Process, this_process


def predict_sharded(
    network: nn.Module, images: Tensor | Images, *, process: Process | None = None
) -> tuple[Tensor, Tensor]:
    """`predict_logits`, each process on its share: (clean logits, noisy logits) [N,K] of all images, in every process.

    Every process calls this, with the same network and the same images; what goes wrong in one is raised in all.
    process: the one that `torch.distributed` knows of unless given; where there is only one, nothing is sent.
    """
    process = process or this_process()
    own = process.own_images(images)
    clean, noisy = process.each(lambda: predict_logits(network, own))
    return process.gather(clean, len(images)), process.gather(noisy, len(images))
