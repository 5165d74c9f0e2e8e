"""Why a task of the review project was asked, as its own data tells; nothing in that is trusted.

Whoever may edit the project may edit the data of its tasks. A push key that is none of ours makes the task somebody
else's; a kind that its key does not stand for or that shows less than the task does, a class that there is none of or a
run that cannot be one is unknown.

A question may be changed while somebody has it open. What was answered is what was suggested when the answer was begun
(`lead_time` before it came), by Label Studio's clock alone: what the task says now, or what it says that it suggested
earlier. About the time of the change nobody can tell, and the suggestion is unknown.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline.queue.keys import kinds_of_key
from pipeline.records import EARLIER, UNSHOWN, Annotation, AskedAs, Task

_LEADING = ("current_label", "model_label", "suggestion")
"""What a question of `UNSHOWN` has nothing in."""
_CHANGING = timedelta(minutes=1)
"""A change takes effect within this time after it was noted."""
_LONGEST_LEAD = timedelta(days=2)
"""A task is reserved for one day; a browser's clock may say anything."""
_RUN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is known of the question that a task asks; nothing, of tasks that people made."""

    asked_as: AskedAs | None = None
    suggestion: str | None = None
    """The class that was pre-selected; None where none was."""
    asked_by_run: str | None = None


def read_question(task: Task, *, labels_project_id: int, classes: Collection[str]) -> Question | None:
    """The question of a task of the review project; None where it was asked for another labels project."""
    key = task.data.get("push_key")
    if key is None:
        return Question()
    kinds = kinds_of_key(key, labels_project_id, task.sample_id) if isinstance(key, str) else frozenset()
    if not kinds:
        return None
    asked_as = next((kind for kind in kinds if kind == task.data.get("asked_as")), None)
    if asked_as in UNSHOWN and any(task.data.get(name) for name in _LEADING):
        asked_as = None  # the answer was led: it must not estimate, whatever the task says now
    said = _said(task)
    suggestion, run = said.get("model_label"), said.get("asked_by_run")
    shown = asked_as not in UNSHOWN and isinstance(suggestion, str) and suggestion in classes
    return Question(
        asked_as=asked_as,
        suggestion=suggestion if shown else None,
        asked_by_run=run if isinstance(run, str) and _RUN_KEY.fullmatch(run) else None,
    )


def _said(task: Task) -> Mapping[str, Any]:
    """What the task suggested to those who answered it; nothing where that differs or cannot be told."""
    earlier = _earlier(task.data.get(EARLIER))
    if not earlier:
        return task.data
    told = {_place(earlier, annotation) for annotation in task.annotations}
    if len(told) != 1:
        return task.data if not told else {}
    place = told.pop()
    return {} if place is None else [*(said for _, said in earlier), task.data][place]


def _place(earlier: list[tuple[datetime, Mapping[str, Any]]], annotation: Annotation) -> int | None:
    """Which of the suggestions, the latest last, an answer is about; None where it was begun while they changed."""
    lead = min(annotation.lead_time_s or 0.0, _LONGEST_LEAD.total_seconds())
    try:
        begun = annotation.created_at - timedelta(seconds=lead)
        for place, (until, _) in enumerate(earlier):
            if begun < until:
                return place
            if begun < until + _CHANGING:
                return None
    except OverflowError:  # of a time at the end of all times, which somebody wrote there
        return None
    return len(earlier)


def _earlier(value: Any) -> list[tuple[datetime, Mapping[str, Any]]]:
    """What was suggested before, each until when, in that order."""
    found = []
    for said in value if isinstance(value, list) else []:
        try:
            until = datetime.fromisoformat(said["until"])
        except (KeyError, TypeError, ValueError):
            continue
        if until.tzinfo is not None:
            found.append((until, said))
    return sorted(found, key=lambda one: one[0])
