"""Plain values of the demonstration: samples with the truth that the loop itself never sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AuditPlace = Literal["project", "annotation"]
"""Where the auditor's answer is entered: a task of the separate audit project, or a `ground_truth` annotation
beside the annotators' on the labels project's own task. The loop pulls both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """What one annotator said."""

    annotator: int
    """Position among the data set's annotators, from 0."""
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSample:
    """One image to be labelled."""

    sample_id: str
    image: bytes
    """PNG or JPEG (any of `images.EXTENSIONS`)."""
    truth: str | None
    """None where nobody knows; always known where `audit` is set."""
    votes: tuple[Vote, ...]
    """Oldest first; empty where only the auditor has seen it."""
    audit: AuditPlace | None = None

    @property
    def audited(self) -> bool:
        return self.audit is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """One image that never enters Label Studio: it tells how good the model really is."""

    image: bytes
    truth: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoDataset:
    """What is entered into Label Studio, and what is kept back to judge the result."""

    name: str
    classes: tuple[str, ...]
    samples: tuple[DemoSample, ...]
    held_out: tuple[HeldOut, ...]
    native_size: int | None
    """Side of the original images in pixels where they all share one: a hint for the choice of a preset."""
    left_out: int = 0
    """Rows of the source that cannot be used (no label, or bytes that are no image)."""

    @property
    def annotators(self) -> int:
        """How many annotators have voted."""
        return 1 + max((vote.annotator for sample in self.samples for vote in sample.votes), default=-1)

    @property
    def truths(self) -> Mapping[str, str]:
        """`sample_id` → truth, of the samples whose truth is known."""
        return {sample.sample_id: sample.truth for sample in self.samples if sample.truth is not None}
