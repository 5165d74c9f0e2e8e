"""Labelled images, those of a training or of one that scores them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.checks import check_tensor, shown
from fasten_model.errors import DataError
from fasten_model.images.source import Images, check_images, joined

UNKNOWN = -1
"""The given label of a sample that nobody has labelled; the vote of someone who said nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImages:
    """N images with their labels; audited ones also say how they came to be audited.

    Raises `DataError` where an id is no text: which samples are held out, and which are known again, depends on it.
    """

    sample_ids: tuple[str, ...]
    images: Tensor | Images
    """uint8 [N, 3, S, S]; in memory where they are a tensor."""
    labels: Tensor
    """int64 [N]: given labels of the noisy set, audited labels of the clean one."""
    given_labels: Tensor
    """int64 [N]: what the annotators had said of an audited sample; −1 where nobody had."""
    estimates: Tensor
    """bool [N]: drawn at random, so that it may estimate T̂, calibration and accuracy (false: a targeted review)."""
    annotators: tuple[str, ...] = ()
    """R names of those who voted; empty where annotators are not told apart."""
    votes: Tensor | None = None
    """int64 [N,R]: what each had said, in the order of `annotators`, −1 where nothing; None where there is no name. A
    sample without any vote is known by its label."""
    asked_in: Tensor | None = None
    """int64 [N], of audited samples: the number of the round that asked about it, the lower the earlier; one number for
    all that were drawn before any round. None: not known, so that any review may have been asked for after any draw."""

    def __post_init__(self) -> None:
        _check_ids(self.sample_ids)

    @classmethod
    def from_tensors(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        sample_ids: Sequence[str] | None = None,
        given_labels: Tensor | None = None,
        estimates: Tensor | None = None,
        annotators: Sequence[str] = (),
        votes: Tensor | None = None,
        asked_in: Tensor | None = None,
    ) -> "LabelledImages":
        """From images uint8 [N,3,S,S] and labels int64 [N] alone; the rest is as below unless given.

        sample_ids: `0`, `1`, …; which audited samples are held out depends on these. given_labels: unknown.
        estimates: all drawn at random. annotators, votes: not told apart. asked_in: not known. Raises `DataError` where
        a shape or type is another, an id is no text, or an id or a name occurs twice. Images may lie on a GPU; the rest
        is copied to the CPU, where it is judged.
        """
        check_images(images)
        count = len(images)
        ids = tuple(map(str, range(count))) if sample_ids is None else tuple(sample_ids)
        given = torch.full((count,), UNKNOWN) if given_labels is None else given_labels
        drawn = torch.ones(count, dtype=torch.bool) if estimates is None else estimates
        _check_ids(ids)
        for name, tensor, dtype in (
            ("labels", labels, torch.int64),
            ("given_labels", given, torch.int64),
            ("estimates", drawn, torch.bool),
            *([] if asked_in is None else [("asked_in", asked_in, torch.int64)]),
        ):
            check_tensor(name, tensor)
            if tensor.dtype != dtype or tensor.shape != (count,):
                raise DataError(f"{name} must be {dtype} [{count}], got {shown(tensor)}".replace("torch.", ""))
        if len(set(ids)) != count or len(ids) != count:
            raise DataError(f"sample_ids must be {count} different texts, got {len(ids)}, {len(set(ids))} different")
        names = tuple(annotators)
        if votes is not None:
            check_tensor("votes", votes)
        shape = (0, 0) if votes is None else tuple(votes.shape)
        if len(set(names)) != len(names) or shape != ((count, len(names)) if names else (0, 0)):
            raise DataError(
                f"votes must be [{count}, R] for R different annotators, got {list(shape)} for {len(names)} names: "
                "give both or neither"
            )
        if not all(isinstance(name, str) for name in names):
            raise DataError(f"annotators must be texts, got {', '.join(map(repr, names[:5]))}: take str(…) of each")
        if votes is not None and votes.dtype != torch.int64:
            raise DataError(f"votes must be int64, got {votes.dtype}".replace("torch.", ""))
        return cls(
            sample_ids=ids,
            images=images,
            labels=labels.cpu(),
            given_labels=given.cpu(),
            estimates=drawn.cpu(),
            annotators=names,
            votes=None if votes is None else votes.cpu(),
            asked_in=None if asked_in is None else asked_in.cpu(),
        )

    def __len__(self) -> int:
        return len(self.sample_ids)

    def at(self, mask: Tensor) -> "LabelledImages":
        """The rows where `mask` [N] is true. `DataError` where it is no mask: rows by number are another thing."""
        check_tensor("mask", mask)
        if mask.dtype != torch.bool or mask.shape != (len(self),):
            raise DataError(f"mask must be bool [{len(self)}], got {shown(mask)}")
        return LabelledImages(
            sample_ids=tuple(s for s, chosen in zip(self.sample_ids, mask.tolist(), strict=True) if chosen),
            images=self.images[mask],
            labels=self.labels[mask],
            given_labels=self.given_labels[mask],
            estimates=self.estimates[mask],
            annotators=self.annotators,
            votes=None if self.votes is None else self.votes[mask],
            asked_in=None if self.asked_in is None else self.asked_in[mask],
        )

    def votes_of(self, annotators: Sequence[str]) -> Tensor:
        """int64 [N,R]: what these annotators had said, in their order; −1 for who is not one of `self.annotators`."""
        found = torch.full((len(self), len(annotators)), UNKNOWN)
        places = {name: place for place, name in enumerate(self.annotators)}
        for column, name in enumerate(annotators):
            if self.votes is not None and name in places:
                found[:, column] = self.votes[:, places[name]]
        return found

    def unvoted(self, annotators: Sequence[str]) -> Tensor:
        """bool [N]: none of these annotators had said anything of it."""
        return (self.votes_of(annotators) < 0).all(dim=1)


def _check_ids(sample_ids: Sequence[str]) -> None:
    strange = next((number for number, found in enumerate(sample_ids) if not isinstance(found, str)), None)
    if strange is not None:
        found = sample_ids[strange]
        raise DataError(f"sample_ids must be texts, got {found!r} ({type(found).__name__}): give str of each")


def with_given(noisy: LabelledImages, audited: LabelledImages) -> LabelledImages:
    """The noisy samples and after them audited ones, all of which had been labelled, as if nobody had audited them."""
    return LabelledImages(
        sample_ids=noisy.sample_ids + audited.sample_ids,
        images=joined(noisy.images, audited.images),
        labels=torch.cat([noisy.labels, audited.given_labels]),
        given_labels=torch.cat([noisy.given_labels, audited.given_labels]),
        estimates=torch.cat([noisy.estimates, audited.estimates]),
        annotators=noisy.annotators,
        votes=None if noisy.votes is None else torch.cat([noisy.votes, audited.votes_of(noisy.annotators)]),
    )
