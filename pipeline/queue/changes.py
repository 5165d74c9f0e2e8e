"""What a push does to the questions in the queue, worked out before anything is done: a dry run shows the same list."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from pipeline.label_studio import Asked
from pipeline.queue.keys import kinds_of_key
from pipeline.queue.payload import payload_of
from pipeline.records import AskedAs, Project, ReviewTask, Withdrawal
from pipeline.review_screen import what_is_seen

Action = Literal["update", "retire", "revive", "delete", "add"]
"""`update`: another suggestion in the same place. `retire`: served no longer; who has it open may still answer.
`revive`: served again. `delete`: removed, a day after it was retired, or because it is there twice."""
ACTIONS: tuple[Action, ...] = get_args(Action)

WITHDRAWN_AFTER = timedelta(hours=24)
"""How long a retired question is kept: as long as Label Studio reserves a task for whoever was served it."""
TWICE = "it was asked twice"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that is done to one question."""

    action: Action
    push_key: str
    sample_id: str
    asked_as: AskedAs
    before: str = ""
    """What the screen suggested; empty where nothing."""
    after: str = ""
    """What it suggests from now on."""
    why: str = ""
    task_id: int | None = None
    """None of what is added."""
    task: ReviewTask | None = None
    """The question as it is asked from now on; None where it is not."""


def changes_of(
    asked: Iterable[Asked],
    project: Project,
    *,
    labels_project_id: int,
    add: Iterable[ReviewTask],
    update: Iterable[ReviewTask] = (),
    withdraw: Iterable[Withdrawal] = (),
    now: datetime | None = None,
    withdrawn_after: timedelta = WITHDRAWN_AFTER,
) -> list[Change]:
    """What is to be done to the questions of `asked` (all of the review project), and which of `add` are new.

    Nothing is done to a question that somebody has answered, skipped or begun to answer, nor to one of another labels
    project. A retired question is revived only as what it was: who still has it open was shown that, and an audit must
    be answered by nobody who saw a suggestion. It can be asked as something else once it is old enough.

    now: by Label Studio's clock; where that is unknown nothing is old enough to be deleted. Raises `DataError` where a
    question could not be shown (`payload_of`).
    """
    everything = list(asked)
    ours = [each for each in everything if is_ours(each, labels_project_id)]
    twice = list(duplicates(everything, labels_project_id))
    extra = {change.task_id for change in twice}
    first = {each.push_key: each for each in reversed(ours) if each.task_id not in extra}
    taken = {each.push_key for each in everything}
    found = list(twice)
    done = set[str]()

    def known(key: str) -> Asked | None:
        """The question of that key, if it may be changed and nothing has been decided on yet."""
        one = first.get(key)
        return one if one is not None and one.untouched and key not in done else None

    for task in sorted(add, key=lambda task: (task.rank, task.push_key)):
        one = known(task.push_key)
        if task.push_key not in taken:
            taken.add(task.push_key)
            found.append(_asking("add", task, project))
        elif one is not None and one.retired and one.asked_as == task.asked_as:
            done.add(task.push_key)
            found.append(_asking("revive", task, project, one))
        elif one is not None and one.retired and _age(one, now) >= withdrawn_after:
            done.add(task.push_key)
            found += [_ending("delete", one, one.withdrawn), _asking("add", task, project)]
    for task in update:
        one = known(task.push_key)
        if one is None or not one.waiting or one.asked_as != task.asked_as or not would_differ(one, task, project):
            continue
        done.add(task.push_key)
        found.append(_asking("update", task, project, one))
    reasons = {withdrawal.push_key: withdrawal.why for withdrawal in withdraw}
    for one in ours:
        if known(one.push_key) is not one:
            continue
        # Another overlap makes Label Studio serve everything without an answer again.
        why = one.withdrawn if one.retired and not one.finished else reasons.get(one.push_key) if one.waiting else None
        if why:
            found.append(_ending("retire", one, why))
        elif one.retired and one.finished and _age(one, now) >= withdrawn_after:
            found.append(_ending("delete", one, one.withdrawn))
    return sorted(found, key=lambda change: ACTIONS.index(change.action))


def duplicates(asked: Iterable[Asked], labels_project_id: int) -> list[Change]:
    """The untouched copies of questions that are there more than once; one copy of each stays, an answered one first.

    Two machines that push at once ask twice. Of copies that nobody has touched the oldest stays, and one that is served
    rather than one that is not.
    """
    copies: Mapping[str, list[Asked]] = defaultdict(list)
    for each in asked:
        if is_ours(each, labels_project_id):
            copies[each.push_key].append(each)
    found = []
    for same in copies.values():
        if len(same) > 1:
            keep = min(same, key=lambda one: (one.untouched, one.retired, one.task_id))
            found += [_ending("delete", one, TWICE) for one in same if one.untouched and one is not keep]
    return found


def is_ours(one: Asked, labels_project_id: int) -> bool:
    """Whether it is a question about a sample of that labels project; others may share the review project."""
    return one.asked_as in kinds_of_key(one.push_key, labels_project_id, one.sample_id)


def would_differ(one: Asked, task: ReviewTask, project: Project) -> bool:
    """Whether a reviewer would see something else if it were asked as `task`."""
    return one.seen != what_is_seen(payload_of(task, project)["data"], project.control.image_field)


def _asking(action: Action, task: ReviewTask, project: Project, one: Asked | None = None) -> Change:
    shown = payload_of(task, project)["data"]
    return Change(
        action=action,
        push_key=task.push_key,
        sample_id=task.sample_id,
        asked_as=task.asked_as,
        before=one.suggestion if one is not None else "",
        after=shown["suggestion"],
        why=shown["reason"],
        task_id=one.task_id if one is not None else None,
        task=task,
    )


def _ending(action: Action, one: Asked, why: str) -> Change:
    assert one.asked_as is not None  # it is ours
    return Change(
        action=action,
        push_key=one.push_key,
        sample_id=one.sample_id,
        asked_as=one.asked_as,
        before=one.suggestion,
        why=why,
        task_id=one.task_id,
    )


def _age(one: Asked, now: datetime | None) -> timedelta:
    """How long nothing has happened to it, by Label Studio's clock alone."""
    return timedelta(0) if now is None or one.updated_at is None else now - one.updated_at
