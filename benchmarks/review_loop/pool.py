"""The data set of one simulation: labels as they were given, the truth, and what people would answer.

Shapes: N samples, C of them audited before the first round, K classes, R annotators, E test images, S image side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.data import NoiseSpec, Source, draw_cell
from benchmarks.data.source import UNKNOWN
from fasten_model.errors import DataError
from fasten_model.train.seeds import generator

MOST_TEST = 2000
"""Test images looked at: enough to tell the accuracy of a model to a percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """N samples in random order; the simulation alone knows `truth`."""

    sample_ids: tuple[str, ...]
    """N different texts; draws by a hash of them differ from seed to seed."""
    images: Tensor
    """uint8 [N,3,S,S]."""
    given: Tensor
    """int64 [N]: as the annotators gave them."""
    votes: Tensor | None = None
    """int64 [N,R]: each annotator's answer, −1 where there is none; None: nobody is told apart."""
    truth: Tensor
    """int64 [N]."""
    answers: Tensor
    """int64 [N]: what a reviewer says when asked, the same whoever asks and whenever."""
    audited: int
    """C: the first so many samples, a random draw, were audited by people who make no mistake."""
    classes: tuple[str, ...]
    true_transition: Tensor
    """[K,K]: T counted over the pool; rows sum to 1."""
    test_images: Tensor
    """uint8 [E,3,S,S]."""
    test_labels: Tensor
    """int64 [E]."""
    seed: int

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def annotators(self) -> tuple[str, ...]:
        """R names; none where nobody is told apart."""
        return () if self.votes is None else tuple(f"annotator {number}" for number in range(self.votes.shape[1]))

    @property
    def wrong(self) -> Tensor:
        """bool [N]: the given label is not the true one."""
        return self.given != self.truth


def draw_pool(
    source: Source, noise: NoiseSpec, *, samples: int, audited: int, reviewer_error: float, seed: int
) -> Pool:
    """`samples` samples of the source under `noise`, the first `audited` of them audited.

    reviewer_error: probability that an answer is another class, each as likely. Raises `DataError` where there are too
    few samples, or the audited ones miss a class that labels name.
    """
    if not 0 < audited < samples:
        raise DataError(f"{audited} audited of {samples} samples: it must be at least one, and not all")
    if not 0 <= reviewer_error < 1:
        raise DataError(f"reviewer_error must be from 0 to below 1, got {reviewer_error}")
    cell = draw_cell(source, noise, noisy=samples, clean=0, validation=0, seed=seed)
    truth, given = cell.truth, cell.problem.noisy_labels
    if (truth == UNKNOWN).any():
        raise DataError(
            f"the loop is played against the true labels, and {source.name} lacks some; in data of your own, give the "
            "noisy file a column true_label"
        )
    missing = set(given.tolist()) - set(truth[:audited].tolist())
    if missing:
        named = ", ".join(source.classes[label] for label in sorted(missing))
        raise DataError(f"seed {seed}: no sample of {named} among {audited} audited ones; give --audited more")
    return Pool(
        sample_ids=tuple(f"{source.name}/{seed}/{row}" for row in cell.noisy_rows.tolist()),
        images=cell.problem.noisy_images,
        given=given,
        votes=cell.problem.votes,
        truth=truth,
        answers=answers_of(truth, source.num_classes, reviewer_error, seed),
        audited=audited,
        classes=source.classes,
        true_transition=cell.true_transition,
        test_images=cell.test_images[:MOST_TEST],
        test_labels=cell.test_labels[:MOST_TEST],
        seed=seed,
    )


def answers_of(truth: Tensor, num_classes: int, reviewer_error: float, seed: int) -> Tensor:
    """int64 [N]: the truth, or with probability `reviewer_error` one of the other classes."""
    chance = generator(seed, "reviewers")
    errs = torch.rand(len(truth), generator=chance) < reviewer_error
    other = (truth + torch.randint(1, num_classes, (len(truth),), generator=chance)) % num_classes
    return torch.where(errs, other, truth)
