"""What Label Studio sends, turned into plain records; nothing in it is trusted to have the right shape."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any, get_args

from pipeline.records import (
    NOT_SURE,
    UNUSABLE,
    VERDICT_CONTROL,
    Annotation,
    AnswerKind,
    AskedAs,
    LabelControl,
    Project,
    Task,
)

_LONGEST_OF_OURS = 100
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
    """Whether it has as many answers as it waits for; nobody is served it any more."""

    @property
    def untouched(self) -> bool:
        """Whether nobody has said or begun to say anything."""
        return not (self.answers or self.skipped or self.drafted)


def parse_asked(raw: Any, project: Project, drafted: Collection[int], on_bad: OnBad) -> Asked | None:
    """One question, with `drafted` the ids of tasks that have drafts; None where the task cannot be read."""
    task = parse_task(raw, project, on_bad)
    if task is None:
        return None
    kind = task.data.get("asked_as")
    return Asked(
        task_id=task.task_id,
        push_key=_short_text(task.data.get("push_key")),
        sample_id=task.sample_id,
        asked_as=next((known for known in get_args(AskedAs) if known == kind), None),
        asked_by_run=_short_text(task.data.get("asked_by_run")),
        answers=_count(raw.get("total_annotations")),
        skipped=_count(raw.get("cancelled_annotations")),
        drafted=task.task_id in drafted,
        finished=raw.get("is_labeled") is True,
    )


def parse_task(raw: Any, project: Project, on_bad: OnBad) -> Task | None:
    """One task with those of its annotations that can be read; None where the task itself cannot be."""
    if not isinstance(raw, dict) or not _is_id(raw.get("id")) or not isinstance(raw.get("data"), dict):
        on_bad("malformed task", f"project {project.project_id}")
        return None
    annotations = []
    listed = raw.get("annotations", [])
    for entry in listed if isinstance(listed, list) else [listed]:
        try:
            annotations.append(parse_annotation(entry, project.control))
        except MalformedError as error:
            on_bad(str(error), f"task {raw['id']} of project {project.project_id}")
    return Task(task_id=raw["id"], project_id=project.project_id, data=raw["data"], annotations=tuple(annotations))


def parse_annotation(raw: Any, control: LabelControl) -> Annotation:
    """One annotation; raises `MalformedError` where it has no id, author, time or readable result."""
    if not isinstance(raw, dict) or not _is_id(raw.get("id")):
        raise MalformedError("malformed annotation")
    author = raw.get("completed_by")
    if isinstance(author, dict):  # the tasks API can expand it, exports never do
        author = author.get("id")
    if author is not None and not _is_id(author):
        raise MalformedError("annotation with a malformed author")
    cancelled = raw.get("was_cancelled") is True
    kind, label = ("skipped", None) if cancelled else read_answer(raw.get("result"), control)
    return Annotation(
        annotation_id=raw["id"],
        # Deleting a user leaves what they decided, without a name. Each such answer stands for itself.
        annotator=f"user:{author}" if author is not None else f"user:deleted:{raw['id']}",
        kind=kind,
        label=label,
        ground_truth=raw.get("ground_truth") is True,
        was_cancelled=cancelled,
        lead_time_s=_seconds(raw.get("lead_time")),
        created_at=_time(raw.get("created_at")),
        updated_at=_time(raw.get("updated_at")),
    )


def read_answer(result: Any, control: LabelControl) -> tuple[AnswerKind, str | None]:
    """What a result list says. A verdict wins over a class: the suggestion may still be selected beside it."""
    if not isinstance(result, list):
        raise MalformedError("annotation without a result list")
    chosen: dict[str, list[str]] = {control.name: [], VERDICT_CONTROL: []}
    for region in result:
        if isinstance(region, dict) and region.get("type") == "choices" and region.get("from_name") in chosen:
            chosen[region["from_name"]].extend(_choices(region))
    verdict = chosen[VERDICT_CONTROL] if control.name != VERDICT_CONTROL else []
    if UNUSABLE in verdict:
        return "unusable", None
    if NOT_SURE in verdict:
        return "not_sure", None
    labels = sorted(set(chosen[control.name]))
    if len(labels) > 1:
        raise MalformedError("annotation with several classes")
    if not labels:
        return "empty", None
    return ("class" if labels[0] in control.classes else "unknown_class"), labels[0]


def _choices(region: Mapping[str, Any]) -> list[str]:
    value = region.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise MalformedError("annotation with malformed choices")
    return choices


def _short_text(value: Any) -> str:
    """What we write there ourselves is short; anything else is nothing of ours."""
    return value if isinstance(value, str) and len(value) <= _LONGEST_OF_OURS else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _seconds(value: Any) -> float | None:
    """Lead time; a browser's clock may have made it negative or absurd."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        return None
    return float(value)


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise MalformedError("annotation with a malformed time") from None
    if time.tzinfo is None:
        raise MalformedError("annotation with a malformed time")
    return time
