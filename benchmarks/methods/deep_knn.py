"""Deep k-NN: Bahri, Jiang and Gupta, "Deep k-NN for Noisy Labels", ICML 2020, algorithm 1. Consulted: the paper's
description of it; its repository (github dbahri/deepknn) holds no code.

1. Train a preliminary network on the noisy and the clean samples with cross-entropy.
2. Keep a noisy sample if its label is the commonest among its k nearest neighbours in the space of the logits
   (Euclidean distance), the clean samples among them.
3. Train a fresh network on what was kept and the clean samples.

Deviations: k is a hundredth of the samples instead of a constant (theirs is chosen once for each size of data set, and
they find the result robust to it); a sample is not its own neighbour; the choice, on a part of the clean set, whether
the preliminary network trains on the clean samples alone is left out, as these are few here.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.methods.base import Observer, Outcome, Problem, beliefs_of
from benchmarks.methods.plain import passes, train_plain, with_clean
from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig

NEIGHBOUR_SHARE = 0.01
"""k, as a share of the samples; but never fewer than LEAST_NEIGHBOURS, nor more than MOST_NEIGHBOURS."""
LEAST_NEIGHBOURS = 10
MOST_NEIGHBOURS = 500
_CHUNK = 1024


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Passes: 1 + C/N, one look at every sample, and what was kept + C/N. The observer sees the last training only."""
    kept = kept_samples(problem, config)
    images, labels = with_clean(problem, kept)
    network = train_plain(images, labels, problem.num_classes, config, observer)
    every = len(problem.noisy_labels) + len(problem.clean_labels)
    return Outcome(
        network=network,
        beliefs=beliefs_of(network, problem.noisy_images),
        transition=None,
        passes=passes(problem, config, trained=[every, len(labels)], predicted=every),
    )


def kept_samples(problem: Problem, config: TrainConfig) -> Tensor:
    """bool [N]: the noisy samples whose label their neighbours share."""
    images, labels = with_clean(problem)
    network = train_plain(images, labels, problem.num_classes, config)
    logits, _ = predict_logits(network, images)
    device = network.clean_head.weight.device
    neighbours = min(max(round(NEIGHBOUR_SHARE * len(labels)), LEAST_NEIGHBOURS), MOST_NEIGHBOURS, len(labels) - 1)
    voted = plurality(logits.to(device), labels.to(device), problem.num_classes, neighbours).cpu()
    count = len(problem.noisy_labels)
    return voted[:count] == problem.noisy_labels


def plurality(points: Tensor, labels: Tensor, num_classes: int, neighbours: int) -> Tensor:
    """int64 [M]: the commonest label of the k nearest other points; of equally common ones the lowest.

    points [M,D], labels int64 [M], neighbours: k < M. O(M²), in chunks.
    """
    votes = one_hot(labels, num_classes)  # [M, K]
    elected = []
    for start in range(0, len(points), _CHUNK):
        rows = torch.arange(start, min(start + _CHUNK, len(points)), device=points.device)
        distance = torch.cdist(points[rows], points)  # [R, M]
        distance[torch.arange(len(rows), device=points.device), rows] = torch.inf
        nearest = distance.topk(neighbours, largest=False).indices  # [R, k]
        elected.append(votes[nearest].sum(dim=1).argmax(dim=1))
    return torch.cat(elected)
