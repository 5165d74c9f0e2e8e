"""cleanlab: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021,
with the authors' library (cleanlab), prune by noise rate.

1. Out-of-sample probabilities p̂(ȳ | x) of every noisy sample by cross-validation, four folds as in the paper's
   experiments on CIFAR-10.
2. The confident joint of given and true labels; prune what `find_label_issues` finds by it.
3. Train a fresh network on what was kept.

Deviations: the clean samples join every training with their true labels, as every method here is given them; the pruned
classes are not weighted up again (the library does so only for classifiers that take weights).
"""

import numpy as np
import numpy.typing as npt
import torch
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues
from torch import Tensor

from benchmarks.methods.base import Observer, Outcome, Problem, beliefs_of
from benchmarks.methods.plain import passes, train_plain, with_clean
from fasten_model.train import TrainConfig
from fasten_model.train.seeds import generator

FOLDS = 4


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Passes: 3 + 4·C/N for the folds, one look at each sample, and what was kept + C/N. The observer sees the last
    training only."""
    count, clean_count = len(problem.noisy_labels), len(problem.clean_labels)
    issues, transition = label_issues(problem.noisy_labels, out_of_sample(problem, config))
    kept_images, kept_labels = with_clean(problem, ~issues)
    network = train_plain(kept_images, kept_labels, problem.num_classes, config, observer)
    in_folds = (FOLDS - 1) * count + FOLDS * clean_count
    return Outcome(
        network=network,
        beliefs=beliefs_of(network, problem.noisy_images),
        transition=transition,
        passes=passes(problem, config, trained=[in_folds, len(kept_labels)], predicted=count),
    )


def out_of_sample(problem: Problem, config: TrainConfig) -> Tensor:
    """p̂ [N,K] of each noisy sample by a network that was not trained on it."""
    fold = folds(problem.noisy_labels, config.seed)
    probabilities = torch.zeros(len(fold), problem.num_classes)
    for number in range(FOLDS):
        held_out = fold == number
        images, labels = with_clean(problem, ~held_out)
        network = train_plain(images, labels, problem.num_classes, config)
        probabilities[held_out] = beliefs_of(network, problem.noisy_images[held_out])
    return probabilities


def folds(labels: Tensor, seed: int) -> Tensor:
    """int64 [N]: the fold of each sample, with as many of each label in every fold as there can be (stratified)."""
    order = torch.randperm(len(labels), generator=generator(seed, "cross-validation"))
    order = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[order] = torch.arange(len(labels)) % FOLDS
    return fold


def label_issues(labels: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """(bool [N]: the labels that the library takes to be wrong, T̂ [K,K]) from labels int64 [N] and p̂ [N,K]."""
    given, p = labels.numpy(), probabilities.double().numpy()
    joint = compute_confident_joint(given, p)
    # One process: the library's pool of workers would copy the whole program.
    issues = find_label_issues(given, p, confident_joint=joint, n_jobs=1)
    return torch.from_numpy(issues), transition_of(joint)


def transition_of(joint: npt.NDArray[np.float64]) -> Tensor:
    """T̂[i,j] = p(given=j | true=i) [K,K] from cleanlab's joint counts, which are [given, true].

    A class that nobody is confidently of keeps the identity's row.
    """
    counts = torch.from_numpy(np.asarray(joint, dtype=np.float32).T.copy())
    total = counts.sum(dim=1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp(min=1), torch.eye(len(counts)))
