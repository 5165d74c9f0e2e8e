"""What Label Studio sends, turned into plain records; nothing in it is trusted to have the right shape or size."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, get_args

from pipeline.records import (
    LONGEST_CLASS,
    NAMELESS,
    NOT_SURE,
    UNUSABLE,
    VERDICT_CONTROL,
    WITHDRAWN,
    WITHDRAWN_BY,
    Annotation,
    AnswerKind,
    AskedAs,
    LabelControl,
    Project,
    Task,
    is_plain,
    is_sample_id,
)
from pipeline.review_screen import what_is_seen

MOST_ANNOTATIONS = 1_000
"""Annotations read of one task; Label Studio itself stops at a few hundred people."""
MOST_REGIONS = 10_000
"""Regions, and choices in all of them, read of one annotation: others may draw boxes in the same project."""
_LONGEST_OF_OURS = 100
_LONGEST_TEXT = 1_000
_LARGEST_ID = 2**63 - 1

MALFORMED_TASK = "malformed task"
UNUSABLE_SAMPLE_ID = "sample_id is too long or not text"
MALFORMED_ANNOTATION = "malformed annotation"
MALFORMED_AUTHOR = "annotation with a malformed author"
MALFORMED_RESULT = "annotation without a result list"
MALFORMED_CHOICES = "annotation with malformed choices"
MALFORMED_TIME = "annotation with a malformed time"
TOO_MANY_ANNOTATIONS = "more annotations of a task than are read"
TOO_MANY_REGIONS = "annotation with more regions than are read"
REASONS = frozenset(
    {
        MALFORMED_TASK,
        UNUSABLE_SAMPLE_ID,
        MALFORMED_ANNOTATION,
        MALFORMED_AUTHOR,
        MALFORMED_RESULT,
        MALFORMED_CHOICES,
        MALFORMED_TIME,
        TOO_MANY_ANNOTATIONS,
        TOO_MANY_REGIONS,
    }
)
"""Every reason that `on_bad` is called with here."""

OnBad = Callable[[str, str], None]
"""Called with a short reason, fit to be counted by, and where it was."""


class MalformedError(ValueError):
    """One task or annotation that cannot be read; its text is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One task of a review project: which question it is, and how far it has come."""

    task_id: int
    push_key: str
    """Empty for a task that is none of ours."""
    sample_id: str
    asked_as: AskedAs | None
    """None of questions from before the kinds had names."""
    asked_by_run: str
    """Empty where unknown."""
    answers: int
    skipped: int
    drafted: bool
    """Whether somebody has begun an answer without submitting it."""
    finished: bool
    """Whether nobody is served it any more: it has as many answers as it waits for, or it is `retired`."""
    updated_at: datetime | None = None
    """By Label Studio's clock, of the task or anything said of it; None where it cannot be read."""
    withdrawn: str = ""
    """Why it was withdrawn; empty where it was not."""
    withdrawn_by: str = ""
    """The run that withdrew it."""
    current_label: str = ""
    suggestion: str = ""
    """What the screen shows, of questions that nobody has touched; empty of others."""
    seen: str = ""
    """What tells one screen from another (`pipeline.review_screen.what_is_seen`), of the same."""

    @property
    def untouched(self) -> bool:
        """Whether nobody has said or begun to say anything."""
        return not (self.answers or self.skipped or self.drafted)

    @property
    def retired(self) -> bool:
        """Whether it was withdrawn, and has not been answered since by somebody who had it open."""
        return self.withdrawn != "" and not self.answers

    @property
    def waiting(self) -> bool:
        """Whether it is served to people."""
        return not self.finished and not self.retired


def parse_asked(raw: Any, project: Project, drafted: Collection[int], on_bad: OnBad) -> Asked | None:
    """One question, with `drafted` the ids of tasks that have drafts; None where the task cannot be read."""
    task = parse_task(raw, project, on_bad)
    if task is None:
        return None
    kind = task.data.get("asked_as")
    answers, skipped = _count(raw.get("total_annotations")), _count(raw.get("cancelled_annotations"))
    shown = {}
    if not answers and not skipped:
        shown = {
            "current_label": _text(task.data.get("current_label")),
            "suggestion": _text(task.data.get("suggestion")),
            "seen": what_is_seen(task.data, project.control.image_field),
        }
    return Asked(
        task_id=task.task_id,
        push_key=_short_text(task.data.get("push_key")),
        sample_id=task.sample_id,
        asked_as=next((known for known in get_args(AskedAs) if known == kind), None),
        asked_by_run=_short_text(task.data.get("asked_by_run")),
        answers=answers,
        skipped=skipped,
        drafted=task.task_id in drafted,
        finished=raw.get("is_labeled") is True,
        updated_at=_time_or_none(raw.get("updated_at")),
        withdrawn=_text(task.data.get(WITHDRAWN)),
        withdrawn_by=_short_text(task.data.get(WITHDRAWN_BY)),
        **shown,
    )


def push_key_of(raw: Mapping[str, Any]) -> str:
    """The push key of a task as it was sent; empty where it has none."""
    data = raw.get("data")
    return _short_text(data.get("push_key")) if isinstance(data, dict) else ""


def parse_task(raw: Any, project: Project, on_bad: OnBad) -> Task | None:
    """One task with those of its annotations that can be read; None where the task itself cannot be."""
    if not isinstance(raw, dict) or not _is_id(raw.get("id")) or not isinstance(raw.get("data"), dict):
        on_bad(MALFORMED_TASK, f"project {project.project_id}")
        return None
    where = f"task {raw['id']} of project {project.project_id}"
    if not _names_a_sample(raw["data"].get("sample_id")):
        on_bad(UNUSABLE_SAMPLE_ID, where)
        return None
    annotations = []
    listed = raw.get("annotations", [])
    for number, entry in enumerate(listed if isinstance(listed, list) else [listed]):
        try:
            if number >= MOST_ANNOTATIONS:
                raise MalformedError(TOO_MANY_ANNOTATIONS)
            annotations.append(parse_annotation(entry, project.control))
        except MalformedError as error:
            on_bad(str(error), where)
    return Task(task_id=raw["id"], project_id=project.project_id, data=raw["data"], annotations=tuple(annotations))


def parse_annotation(raw: Any, control: LabelControl) -> Annotation:
    """One annotation; raises `MalformedError` where it has no id, author, time or readable result."""
    if not isinstance(raw, dict) or not _is_id(raw.get("id")):
        raise MalformedError(MALFORMED_ANNOTATION)
    author = raw.get("completed_by")
    if isinstance(author, dict):  # the tasks API can expand it, exports never do
        author = author.get("id")
    if author is not None and not _is_id(author):
        raise MalformedError(MALFORMED_AUTHOR)
    cancelled = raw.get("was_cancelled") is True
    kind, label = ("skipped", None) if cancelled else read_answer(raw.get("result"), control)
    return Annotation(
        annotation_id=raw["id"],
        # Deleting a user leaves what they decided, without a name. Each such answer stands for itself.
        annotator=f"user:{author}" if author is not None else f"{NAMELESS}{raw['id']}",
        kind=kind,
        label=label,
        ground_truth=raw.get("ground_truth") is True,
        was_cancelled=cancelled,
        lead_time_s=_seconds(raw.get("lead_time")),
        created_at=_time(raw.get("created_at")),
        updated_at=_time(raw.get("updated_at")),
    )


def parse_drafts(raw: Any, control: LabelControl, where: str, on_bad: OnBad) -> tuple[Annotation, ...]:
    """The answers that were begun of one task, as `GET /api/tasks/{id}/drafts` lists them.

    A draft that changes an annotation which was submitted is none of them: that annotation stands until it is sent.
    """
    drafts = []
    for number, entry in enumerate(raw if isinstance(raw, list) else [raw]):
        try:
            if number >= MOST_ANNOTATIONS:
                raise MalformedError(TOO_MANY_ANNOTATIONS)
            if not isinstance(entry, dict) or entry.get("annotation") is None:
                drafts.append(_parse_draft(entry, control))
        except MalformedError as error:
            on_bad(str(error), where)
    return tuple(drafts)


def _parse_draft(raw: Any, control: LabelControl) -> Annotation:
    if not isinstance(raw, dict) or not _is_id(raw.get("id")):
        raise MalformedError(MALFORMED_ANNOTATION)
    kind, label = read_answer(raw.get("result"), control)
    return Annotation(
        annotation_id=-raw["id"],
        annotator=f"user:{_draft_author(raw)}",
        kind=kind,
        label=label,
        ground_truth=False,
        was_cancelled=False,
        lead_time_s=_seconds(raw.get("lead_time")),
        created_at=_time(raw.get("created_at")),
        updated_at=_time(raw.get("updated_at")),
    )


def _draft_author(raw: Mapping[str, Any]) -> int:
    """The user's id. `user` is an e-mail address; `created_username` is “Ann Other ann@example.org, 7”."""
    if _is_id(raw.get("user")):
        return int(raw["user"])
    name = raw.get("created_username")
    _, comma, number = name.rpartition(", ") if isinstance(name, str) else ("", "", "")
    if not comma or not number.isascii() or not number.isdecimal() or len(number) > 18 or int(number) < 1:
        raise MalformedError(MALFORMED_AUTHOR)
    return int(number)


def read_answer(result: Any, control: LabelControl) -> tuple[AnswerKind, str | None]:
    """What a result list says. A verdict wins over a class: the suggestion may still be selected beside it."""
    if not isinstance(result, list):
        raise MalformedError(MALFORMED_RESULT)
    if len(result) > MOST_REGIONS:
        raise MalformedError(TOO_MANY_REGIONS)
    chosen: dict[str, list[str]] = {control.name: [], VERDICT_CONTROL: []}
    for region in result:
        if not isinstance(region, dict) or region.get("type") != "choices":
            continue
        said = chosen.get(name) if isinstance(name := region.get("from_name"), str) else None
        if said is not None:
            said += _choices(region)
            if len(said) > MOST_REGIONS:
                raise MalformedError(TOO_MANY_REGIONS)
    verdict = chosen[VERDICT_CONTROL] if control.name != VERDICT_CONTROL else []
    if UNUSABLE in verdict:
        return "unusable", None
    if NOT_SURE in verdict:
        return "not_sure", None
    labels = set(chosen[control.name])
    if len(labels) > 1:
        return "several", None
    if not labels:
        return "empty", None
    (label,) = labels
    return ("class", label) if label in control.classes else ("unknown_class", _kept(label))


def _choices(region: Mapping[str, Any]) -> list[str]:
    value = region.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise MalformedError(MALFORMED_CHOICES)
    return choices


def _kept(label: str) -> str:
    """What is kept of the name of a class that there is none of: no class has a name that this changes."""
    short = label[:LONGEST_CLASS]
    return short if is_plain(short) else "".join(mark if is_plain(mark) else "�" for mark in short)


def _names_a_sample(given: Any) -> bool:
    return given is None or given == "" or is_sample_id(given)


def _short_text(value: Any) -> str:
    """What we write there ourselves is short; anything else is nothing of ours."""
    return value if isinstance(value, str) and len(value) <= _LONGEST_OF_OURS else ""


def _text(value: Any) -> str:
    """A text that people may read, such as a class name."""
    return value[:_LONGEST_TEXT] if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_ID


def _seconds(value: Any) -> float | None:
    """Lead time; a browser's clock may have made it negative or absurd."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST_ID:
        return None
    return float(value) if isfinite(value) else None


def time_in_utc(value: Any) -> str:
    """A time in UTC, as text; empty where it cannot be read."""
    time = _time_or_none(value)
    return "" if time is None else time.isoformat()


def _time_or_none(value: Any) -> datetime | None:
    try:
        return _time(value)
    except MalformedError:
        return None


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise MalformedError(MALFORMED_TIME)
        return time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):  # the first hours of the year 1 begin before it, in Greenwich
        raise MalformedError(MALFORMED_TIME) from None
