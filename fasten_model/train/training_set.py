"""The two sets that FasTEN learns from, checked once so that the loop need not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.checks import check_labels, check_tensor, check_votes, check_whole, shown
from fasten_model.errors import DataError
from fasten_model.images.source import Images, check_images


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSet:
    """N bulk samples whose labels may be wrong, and C audited ones whose labels are right. `DataError` if unusable.

    Several annotators are told apart by `votes`: R answers a sample. Without it there is one label a sample, R = 1.
    """

    noisy_images: Tensor | Images
    """uint8 [N,3,S,S]."""
    noisy_labels: Tensor
    """int64 [N]: ȳ*, as the annotators gave them (their majority, where there are several)."""
    clean_images: Tensor | Images
    """uint8 [C,3,S,S]."""
    clean_labels: Tensor
    """int64 [C]: y."""
    clean_estimates: Tensor
    """bool [C]: True where the sample was audited at random. Only these enter T̂: a sample that was reviewed because the
    model was unsure of it trains the clean head, but would bias an estimate."""
    num_classes: int
    """K."""
    votes: Tensor | None = None
    """int64 [N,R]: what each annotator said, −1 where nothing."""
    clean_votes: Tensor | None = None
    """int64 [C,R]: what they had said of the audited samples, −1 where nothing; without `votes` R = 1."""
    held_out_images: Tensor | Images | None = None
    """uint8 [H,3,S,S]: audited at random, and no loss is told what they are, so that confidence can be calibrated while
    training."""
    held_out_labels: Tensor | None = None
    """int64 [H]: y of those."""
    held_out_rows: Tensor | None = None
    """int64 [H]: which noisy sample each of them is, −1 where it is none. One that is trains with the label that it
    came with, as the bulk does; what it truly is no step is told."""

    def __post_init__(self) -> None:
        check_whole("num_classes", self.num_classes, 2)
        for kind, images, labels in (
            ("noisy", self.noisy_images, self.noisy_labels),
            ("clean", self.clean_images, self.clean_labels),
        ):
            check_some_images(f"{kind} images", images)
            check_labels(f"{kind} labels", labels, len(images), self.num_classes)
        check_more_than_one(len(self.noisy_labels))
        if (self.held_out_images is None) != (self.held_out_labels is None):
            raise DataError("held_out_images and held_out_labels go together: give both or neither")
        if self.held_out_images is not None and self.held_out_labels is not None:
            check_some_images("held-out images", self.held_out_images)
            check_labels("held-out labels", self.held_out_labels, len(self.held_out_images), self.num_classes)
        if self.held_out_rows is not None:
            self._check_held_out_rows(self.held_out_rows)
        for kind, others in (("clean", self.clean_images), ("held-out", self.held_out_images)):
            if others is not None and others.shape[1:] != self.noisy_images.shape[1:]:
                raise DataError(f"{kind} images are {shown(others)}, noisy ones {shown(self.noisy_images)}")
        check_tensor("clean_estimates", self.clean_estimates)
        if self.clean_estimates.dtype != torch.bool or self.clean_estimates.shape != self.clean_labels.shape:
            raise DataError(
                f"clean_estimates must be bool [{len(self.clean_labels)}], got {shown(self.clean_estimates)}"
            )
        if not self.clean_estimates.any():
            raise DataError("no clean sample was audited at random, so T cannot be estimated; audit a few hundred")
        if self.votes is not None:
            check_tensor("votes", self.votes)
        if self.votes is not None and (self.votes.ndim != 2 or self.votes.shape[1] == 0):
            count = len(self.noisy_labels)
            raise DataError(f"votes must be int64 [{count}, R] of at least one annotator, got {shown(self.votes)}")
        annotators = 1 if self.votes is None else self.votes.shape[1]
        for name, votes, count in (
            ("votes", self.votes, len(self.noisy_labels)),
            ("clean_votes", self.clean_votes, len(self.clean_labels)),
        ):
            if votes is not None:
                check_votes(name, votes, (count, annotators), self.num_classes)

    def _check_held_out_rows(self, rows: Tensor) -> None:
        wanted = None if self.held_out_labels is None else self.held_out_labels.shape
        check_tensor("held_out_rows", rows)
        if rows.dtype != torch.int64 or rows.shape != wanted:
            raise DataError(f"held_out_rows must be int64 {list(wanted or [0])}, got {shown(rows)}")
        if len(rows) and not -1 <= int(rows.min()) <= int(rows.max()) < len(self.noisy_labels):
            raise DataError(f"held_out_rows must be from −1 to {len(self.noisy_labels) - 1}")

    def all_votes(self) -> Tensor:
        """int64 [N,R]: the votes, or the one label of each sample."""
        return self.noisy_labels[:, None] if self.votes is None else self.votes

    def pair_counts(self) -> Tensor:
        """[R,K,K]: of the samples audited at random, how many of class i annotator r had called j."""
        annotators = self.all_votes().shape[1]
        counts = torch.zeros(annotators, self.num_classes, self.num_classes)
        if self.clean_votes is not None:
            votes = self.clean_votes[self.clean_estimates]  # [P, R]
            true = self.clean_labels[self.clean_estimates][:, None].expand_as(votes)
            who = torch.arange(annotators, device=votes.device).expand_as(votes)
            said = votes >= 0
            place = (who[said].cpu(), true[said].cpu(), votes[said].cpu())
            counts.index_put_(place, torch.ones(len(place[0])), accumulate=True)
        return counts

    def majority_pair_counts(self) -> Tensor:
        """[1,K,K]: of the samples audited at random, how many of class i the majority of the annotators had called j.

        Of classes that got equally many votes each takes an equal share of the sample.
        """
        counts = torch.zeros(self.num_classes, self.num_classes)
        if self.clean_votes is not None:
            votes = self.clean_votes[self.clean_estimates].cpu()  # [P, R]
            said = (votes >= 0).float()
            tally = torch.zeros(len(votes), self.num_classes).scatter_add_(1, votes.clamp(min=0), said)  # [P, K]
            most = tally.amax(dim=1, keepdim=True)
            chosen = ((tally == most) & (most > 0)).float()
            shares = chosen / chosen.sum(dim=1, keepdim=True).clamp(min=1)
            counts.index_add_(0, self.clean_labels[self.clean_estimates].cpu(), shares)
        return counts[None]

    def classes_without_estimate(self) -> tuple[int, ...]:
        """Classes with no sample audited at random: nothing but the prior tells their row of T̂."""
        counts = torch.bincount(self.clean_labels[self.clean_estimates].cpu(), minlength=self.num_classes)
        return tuple((counts == 0).nonzero().squeeze(1).tolist())


def check_some_images(name: str, images: Tensor | Images) -> None:
    """`DataError` unless `images` is uint8 [N,3,S,S] with N ≥ 1."""
    check_images(images, name=name)
    if len(images) == 0:
        raise DataError(f"there are no {name}; nothing can be trained without them")


def check_more_than_one(count: int) -> None:
    """`DataError` where a single sample is all that batches are made of."""
    if count == 1:
        raise DataError(
            "there is only one noisy sample to train on, and BatchNorm has no statistics of one: label more tasks"
        )
