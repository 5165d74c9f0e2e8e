"""Which annotations count: whose, and whether skipping and unfinished answers say anything."""

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.records import AnswerKind, Origin

Skipped = Literal["takes_back", "ignore"]
Drafts = Literal["leave_out", "count"]

LEFT_OUT_ANNOTATOR = "annotator on the list"
LEFT_OUT_SKIP = "skipped, which is set to say nothing"
LEFT_OUT_DRAFT = "draft, which is set not to count"
"""Why an annotation is left out, to be counted by."""

_ANNOTATOR = re.compile(r"(user:)?[1-9][0-9]{0,18}|user:deleted:[1-9][0-9]{0,18}|[^@\s]+@[^@\s]+")


def is_annotator(reference: str) -> bool:
    """Whether `reference` can name a user of Label Studio: `7`, `user:7` or an e-mail address."""
    return _ANNOTATOR.fullmatch(reference) is not None


class Said(Protocol):
    """What is asked of an annotation to tell whether it counts."""

    @property
    def annotator(self) -> str: ...
    @property
    def kind(self) -> AnswerKind: ...
    @property
    def is_draft(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFilter:
    """Which annotations are left out of a snapshot, as if nobody had made them."""

    annotators: frozenset[str] = frozenset()
    """Whose, in any project, as `user:7` (never an e-mail address: those are looked up by
    `label_studio.LabelStudio.find_annotators`)."""
    skipped: Skipped = "takes_back"
    """`takes_back`: a task that somebody skips after labelling it has no label of theirs. `ignore`: the label stays."""
    drafts: Drafts = "leave_out"
    """`count`: an answer that was begun in the labels project is its author's, unless they have submitted one. In other
    projects a draft never counts: what decides is what somebody meant to send."""

    def reason_left_out(self, annotation: Said, origin: Origin) -> str | None:
        """Why this annotation of a project of that role is left out; None where it counts."""
        if annotation.annotator in self.annotators:
            return LEFT_OUT_ANNOTATOR
        if annotation.kind == "skipped" and self.skipped == "ignore":
            return LEFT_OUT_SKIP
        if annotation.is_draft and (self.drafts == "leave_out" or origin != "labels"):
            return LEFT_OUT_DRAFT
        return None
