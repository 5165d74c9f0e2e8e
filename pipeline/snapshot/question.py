"""Why a task of the review project was asked, as its own data tells; nothing in that is trusted.

Whoever may edit the project may edit the data of its tasks. A push key that is none of ours makes the task somebody
else's; a kind that its key does not stand for or that shows less than the task does, a class that there is none of or a
run that cannot be one is unknown.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.queue import kinds_of_key
from pipeline.records import UNSHOWN, AskedAs, Task

_LEADING = ("current_label", "model_label", "suggestion")
"""What a question of `UNSHOWN` has nothing in."""
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
    suggestion = task.data.get("model_label")
    shown = asked_as not in UNSHOWN and isinstance(suggestion, str) and suggestion in classes
    run = task.data.get("asked_by_run")
    return Question(
        asked_as=asked_as,
        suggestion=suggestion if shown else None,
        asked_by_run=run if isinstance(run, str) and _RUN_KEY.fullmatch(run) else None,
    )
