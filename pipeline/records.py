"""Plain values that pass between the Label Studio door and the rest of the pipeline."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from typing import Any, Literal, NamedTuple

Origin = Literal["labels", "audit", "review"]
"""Where an annotation was made: the bulk labels project, the audit project, the review project."""

AnswerKind = Literal["class", "unknown_class", "several", "unusable", "not_sure", "skipped", "empty"]
"""What one annotation says. Only `class` carries a label that may train anything. `several`: more than one class was
chosen, which decides nothing."""

AskedAs = Literal["audit", "check", "targeted", "tie_break", "recheck"]
"""Why a review task was asked. `audit`: drawn at random, before the model was looked at; only these may estimate.
`check`: drawn at random among the labels that the machine changes by itself. `targeted`: where the model expects most
of an answer. `tie_break`: people disagree, or one was not sure. `recheck`: the model contradicts a person."""
UNSHOWN: frozenset[AskedAs] = frozenset({"audit", "check"})
"""Questions that show neither the current label nor a suggestion, so that nobody is led to an answer."""

Mode = Literal["suggest", "auto"]
"""`suggest`: only people change labels. `auto`: what reaches ρ is changed without asking, too."""

UNUSABLE = "unusable image"
NOT_SURE = "not sure"
VERDICT_CONTROL = "verdict"
"""The review screen's second Choices control and its two values."""
WITHDRAWN, WITHDRAWN_BY = "withdrawn", "withdrawn_by"
"""Keys of a review task's data: why it is served no longer, and the run that withdrew it."""
EARLIER = "earlier"
"""Key of a review task's data: what it suggested before it was changed, and until when."""

NAMELESS = "user:deleted:"
"""What the author of an answer begins with whose user was deleted, before the annotation's id: one for each answer, so
that it stands for itself."""

_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LONGEST_CLASS = 1_000
"""Characters of a class's name; of a longer one that an annotation names, the beginning is kept."""
LONGEST_SAMPLE_ID = 1_000
"""Bytes of a sample's id in UTF-8."""


def is_plain(text: str) -> bool:
    """Whether `text` is one line without control characters or halves of surrogate pairs, as ids and names are."""
    return _ODD.search(text) is None


def is_sample_id(given: object) -> bool:
    """Whether a task's `data["sample_id"]` can name a sample: text or a number, short and plain."""
    if isinstance(given, str):
        return is_plain(given) and len(given.encode()) <= LONGEST_SAMPLE_ID
    if isinstance(given, int) and not isinstance(given, bool):
        return abs(given) < 2**63  # an integer of many thousand digits cannot even be written down
    return isinstance(given, float) and isfinite(given)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelControl:
    """The one Choices control and image that a project's label config is read by."""

    name: str
    """`from_name` of results."""
    to_name: str
    """Name of the tag that the control points at: an Image, unless the image's field was set by hand."""
    image_field: str
    """Key of `task.data` that holds the image's URL (`image` for `value="$image"`)."""
    classes: tuple[str, ...]
    """Class names in the order of the label config; class index = position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """One Label Studio project with its label control found."""

    project_id: int
    title: str
    control: LabelControl
    created_at: str = ""
    """In UTC: two servers may each have a project of that number. Empty where Label Studio does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One annotator's answer to one task."""

    annotation_id: int
    """Label Studio's id; of a draft, which has ids of its own there, minus that id."""
    annotator: str
    """`user:{id}`: stable, and no e-mail address ends up in an artifact."""
    kind: AnswerKind
    label: str | None
    """The class name as it was given (also for `unknown_class`); None for every other kind."""
    ground_truth: bool
    was_cancelled: bool
    lead_time_s: float | None
    created_at: datetime
    updated_at: datetime

    @property
    def is_draft(self) -> bool:
        """Whether it was begun and never submitted."""
        return self.annotation_id < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One Label Studio task with all its annotations."""

    task_id: int
    project_id: int
    data: Mapping[str, Any]
    annotations: tuple[Annotation, ...] = ()

    @property
    def sample_id(self) -> str:
        """`data["sample_id"]` where the task has one, else `ls:{project_id}:{task_id}` (design: Identity)."""
        given = self.data.get("sample_id")
        return str(given) if given not in (None, "") else f"ls:{self.project_id}:{self.task_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """An image as tasks name it."""

    url: str
    """What the task's data says: a path on Label Studio, an http(s), `s3://`, `gs://` or `azure-blob://` address, or a
    `data:` URI."""
    task_id: int
    """A task that shows it: Label Studio resolves cloud addresses per task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRead:
    """One task as it was read, with what came along: what tells a change from none."""

    task_id: int
    task: Task | None
    """None where it cannot be read at all."""
    updated_at: str
    """Label Studio's time of the last change of the task or its annotations, in UTC with microseconds, so that times
    compare as texts; empty where there is none."""
    answers: int
    """Annotations that are not skipped, whether they can be read or not."""
    entries: int
    """Everything that anybody said of it, skipped and unreadable entries too; a task without any is not kept."""
    problems: tuple[tuple[str, str], ...] = ()
    """(reason, where) of what cannot be read of it."""


class Listed(NamedTuple):
    """A task as the cheapest list there is has it: whatever changes of its answers, one of these does."""

    task_id: int
    updated_at: str
    """In UTC with microseconds; empty where it cannot be read."""
    answers: int
    """Annotations that are not skipped."""
    entries: int
    """All annotations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Some of a project's tasks, by ascending id."""

    tasks: tuple[TaskRead, ...]
    through: int
    """Every task up to this id has been read."""
    last: bool = False
    """Whether no other comes after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """The answered tasks of a project that have changed last, and how many there are of all, in one answer."""

    tasks: tuple[Listed, ...]
    """The latest change first."""
    counts: tuple[int, int]
    """(tasks that somebody answered or skipped, annotations of theirs that are not skipped)."""
    clock: datetime | None
    """What the server's clock said when it answered, to the second; None where it does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectState:
    """What can be known about a project in two cheap requests; equal states mean nothing new to pull."""

    project_id: int
    tasks: int
    """Tasks in the project; 0 where `answers_only` was asked for, since our own pushes move it."""
    annotations: int
    newest_change: str
    """`updated_at` of the most recently changed task (with annotations only, where `answers_only`)."""
    drafts: str = ""
    """Changes when anybody begins an answer or goes on with it, which moves no `updated_at`; empty unless asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewTask:
    """One question for a reviewer, as it is pushed to the review project."""

    push_key: str
    """Deterministic: the same question always has the same key, so it can be looked up before it is sent."""
    sample_id: str
    image_url: str
    asked_as: AskedAs = "targeted"
    current_label: str
    model_label: str
    """The suggestion: shown and pre-selected unless `asked_as` is one of `UNSHOWN`."""
    confidence: float
    """Calibrated probability of `model_label`, 0–1."""
    reason: str
    priority: float
    """Expected wrong labels set right by asking, 0–1."""
    model_version: str
    run_key: str = ""
    """The run that asked (`pipeline.workspace.run_key`)."""
    rank: float = 0.0
    """Place in the queue, 0–1; the lowest is served first."""
    references: tuple[str, ...] = ()
    """URLs of up to three audited images of `model_label`, as the labels project names them."""
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawal:
    """A waiting question that nobody need answer any more."""

    push_key: str
    sample_id: str
    why: str
    """In the words of the trail."""
