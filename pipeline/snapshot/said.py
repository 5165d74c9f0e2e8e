"""One annotation as a pull knows it, with the image of its task."""

from dataclasses import dataclass
from datetime import datetime

from pipeline.snapshot.consensus import Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskImage:
    """The image of one task: its hash, or why it has none."""

    url: str
    sha256: str | None
    reason: str
    """Why there is no image, to be counted by; empty where there is one."""
    problem: str
    """The same with its particulars."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One annotation of one task."""

    project_id: int
    task_id: int
    answer: Answer
    was_cancelled: bool
    lead_time_s: float | None
    created_at: datetime
    image: TaskImage
    suggestion: str | None = None
    """The class that was pre-selected on the screen; None where none was."""
    asked_by_run: str | None = None
