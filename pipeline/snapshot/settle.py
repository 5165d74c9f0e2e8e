"""What everything that was said of one sample comes to: a noisy row, a clean row, or neither and why."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.snapshot.consensus import Vote, consensus, decision, votes
from pipeline.snapshot.staging import Said, TaskImage

Fate = Literal["noisy", "audit", "review", "unusable", "not_sure", "unlabelled", "rejected"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The fate of one sample."""

    fate: Fate
    row: dict[str, Any] | None = None
    """Of `noisy.parquet` or `clean.parquet`; None for every other fate."""
    reason: str = ""
    """Why the sample is rejected, to be counted by."""
    particulars: str = ""
    notes: tuple[str, ...] = field(default=())
    """What a person should hear of although the sample is used, to be counted by."""


DIFFERENT_IMAGE = "audited image differs from the labelled one of the same sample_id: its labels are not compared"
AUDIT_OVER_REVIEW = "a review contradicts an audit: the audit stands"


def settle(sample_id: str, said: Sequence[Said], annotators: Collection[str] = ()) -> Settled:
    """Settle one sample from all annotations of it.

    An annotation of the audit project, of the review project, or marked as ground truth decides; all others of the
    labels project vote. So does a ground-truth annotation that one of the `annotators` made: an auditor has found it
    right and marked it, and without it only the labels that were found wrong would be counted as given. A decided
    sample is never noisy too, whatever the decision.
    """
    bulk = [each for each in said if each.answer.origin == "labels"]
    deciding = [each for each in said if each.answer.origin != "labels" or each.answer.ground_truth]
    cast = votes(each.answer for each in bulk if not each.answer.ground_truth or each.answer.annotator in annotators)
    decided = decision(each.answer for each in deciding)
    if decided is None:
        return _noisy(sample_id, [each.image for each in bulk], cast)
    if decided.kind in ("unusable", "not_sure"):
        return Settled(fate="unusable" if decided.kind == "unusable" else "not_sure")

    seen = next(each.image for each in deciding if each.answer is decided)
    images = _distinct([each.image for each in bulk])
    image = seen if seen.sha256 else (images[0] if len(images) == 1 else seen)
    if image.sha256 is None:
        return _rejected(seen)
    notes = []
    reviewed = [each.answer for each in deciding if each.answer.origin == "review" and each.answer.kind == "class"]
    if decided.origin != "review" and any(answer.label != decided.label for answer in reviewed):
        notes.append(AUDIT_OVER_REVIEW)
    if any(other.sha256 != image.sha256 for other in images):
        # Two projects that number their samples independently: the auditor's label is right for the auditor's image,
        # and says nothing about the annotators' votes on another one.
        notes.append(DIFFERENT_IMAGE)
        cast = ()
    provenance: Fate = "review" if decided.origin == "review" else "audit"
    row = {
        "sample_id": sample_id,
        "image_sha256": image.sha256,
        "label": decided.label,
        "given_label": consensus(cast),
        "votes": _vote_rows(cast),
        "provenance": provenance,
        "auditor": decided.annotator,
        "audited_at": decided.updated_at,
    }
    return Settled(fate=provenance, row=row, notes=tuple(notes))


def _noisy(sample_id: str, images: Sequence[TaskImage], cast: Sequence[Vote]) -> Settled:
    label = consensus(cast)
    if label is None:
        return Settled(fate="unlabelled")
    distinct = _distinct(images)
    if not distinct:
        return _rejected(images[0])
    if len(distinct) > 1:
        listed = ", ".join(image.url.partition("?")[0][:80] for image in distinct[:3])
        return Settled(fate="rejected", reason="one sample_id stands for several images", particulars=listed)
    row = {
        "sample_id": sample_id,
        "image_sha256": distinct[0].sha256,
        "image_url": distinct[0].url,
        "label": label,
        "votes": _vote_rows(cast),
    }
    return Settled(fate="noisy", row=row)


def _distinct(images: Sequence[TaskImage]) -> list[TaskImage]:
    """The images there are, each hash once, in order of tasks."""
    first: dict[str, TaskImage] = {}
    for image in images:
        if image.sha256 is not None:
            first.setdefault(image.sha256, image)
    return list(first.values())


def _rejected(image: TaskImage) -> Settled:
    return Settled(fate="rejected", reason=image.reason, particulars=image.problem)


def _vote_rows(cast: Sequence[Vote]) -> list[dict[str, str]]:
    return [{"annotator": vote.annotator, "label": vote.label} for vote in cast]
