"""What everything that was said of one sample comes to: a noisy row, a clean row, an undecided one, or none and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.snapshot.consensus import Answer, Decided, Vote, consensus, considered, decide, latest, votes
from pipeline.snapshot.said import Said, TaskImage

Fate = Literal["noisy", "audit", "review", "disputed", "not_sure", "unusable", "unlabelled", "rejected"]
TABLE: Mapping[Fate, str] = {
    "noisy": "noisy",
    "audit": "clean",
    "review": "clean",
    "disputed": "undecided",
    "not_sure": "undecided",
    "unusable": "undecided",
}
"""Which table the samples of a fate are rows of; the others are in none but `labels`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The fate of one sample."""

    fate: Fate
    row: dict[str, Any] | None = None
    """Of the fate's `TABLE`; None where it has none."""
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
    right and marked it, and without it only the labels that were found wrong would be counted as given; the machine's
    own user is no annotator there. A sample that people have looked at is never noisy again, whatever they made of it.
    """
    bulk = [each for each in said if each.answer.origin == "labels"]
    deciding = [each for each in said if each.answer.origin != "labels" or each.answer.ground_truth]
    cast = votes(
        each.answer
        for each in bulk
        if not each.answer.ground_truth or (each.answer.annotator in annotators and not each.answer.led)
    )
    decided = decide(each.answer for each in deciding) if deciding else None
    if decided is None or decided.answer is None:
        return _noisy(sample_id, [each.image for each in bulk], cast)

    seen = next(each.image for each in deciding if each.answer is decided.answer)
    images = _distinct([each.image for each in bulk])
    image = seen if seen.sha256 else (images[0] if len(images) == 1 else seen)
    notes = []
    reviewed = [each.answer for each in deciding if each.answer.origin == "review" and each.answer.kind == "class"]
    if decided.answer.origin != "review" and any(answer.label != decided.label for answer in reviewed):
        notes.append(AUDIT_OVER_REVIEW)
    if image.sha256 is not None and any(other.sha256 != image.sha256 for other in images):
        # Two projects that number their samples independently: the auditor's label is right for the auditor's image,
        # and says nothing about the annotators' votes on another one.
        notes.append(DIFFERENT_IMAGE)
        cast = ()
    url = next((other.url for other in images if other.sha256 == image.sha256), None)
    if decided.state != "class":
        image = replace(image, url=url or image.url)
        return _undecided(sample_id, decided, image, cast, [each.answer for each in deciding], notes)
    if image.sha256 is None:
        return _rejected(seen)
    provenance: Fate = "audit" if decided.drawn_at_random else "review"
    row = {
        "sample_id": sample_id,
        "image_sha256": image.sha256,
        "image_url": url,
        "label": decided.label,
        "given_label": consensus(cast),
        "votes": _vote_rows(cast),
        "provenance": provenance,
        "auditor": decided.answer.annotator,
        "audited_at": decided.answer.updated_at,
    }
    return Settled(fate=provenance, row=row, notes=tuple(notes))


def _undecided(
    sample_id: str,
    decided: Decided,
    image: TaskImage,
    cast: Sequence[Vote],
    deciding: Sequence[Answer],
    notes: Sequence[str],
) -> Settled:
    fate = decided.state
    assert fate in ("disputed", "not_sure", "unusable")
    row = {
        "sample_id": sample_id,
        "image_sha256": image.sha256,
        "image_url": image.url,
        "label": consensus(cast),
        "votes": _vote_rows(cast),
        "state": fate,
        "answers": [
            {"annotator": answer.annotator, "answer": answer.kind, "label": answer.label}
            for answer in latest(considered(deciding))
        ],
    }
    return Settled(fate=fate, row=row, notes=tuple(notes))


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
