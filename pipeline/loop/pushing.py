"""The stage that reaches people: their queue is brought up to date with what triage has planned."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline import queue, trail, triage
from pipeline.errors import DataError
from pipeline.images import ImageStore
from pipeline.label_studio import Asked, LabelStudio
from pipeline.label_studio.interface import check_payload
from pipeline.loop.plans import begin, end, read_plan
from pipeline.loop.survey import Found, find_review_project, review_title
from pipeline.records import AskedAs, Project
from pipeline.review_screen import are_small, is_earlier, review_config
from pipeline.settings import Settings
from pipeline.snapshot.pull import check_same_classes
from pipeline.workspace import ReviewQueue, Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What the queue holds now."""

    title: str
    """Of the review project."""
    added: int
    waiting: int
    """Questions that nobody has answered, and that are served."""
    minutes: float
    """What the planned questions take of people's time, by their own pace."""
    corrections: float
    """Labels that the answers are expected to set right."""
    counts: Mapping[AskedAs, int]
    """Planned questions by why they are asked."""
    changes: tuple[queue.Change, ...] = ()
    """What was done to each question, or would be: what is added, too."""
    url: str = ""
    """Where a reviewer starts; empty while there is no review project."""


def preview_queue(settings: Settings, found: Found, plan: triage.Plan) -> Pushed:
    """What a push of this plan would do; nothing is made, sent or written."""
    with LabelStudio(settings.label_studio) as door:
        review = find_review_project(settings, door, found.labels)
        if review is None:
            review = replace(found.labels, title=review_title(settings, found.labels))
            changes = queue.changes_of((), review, labels_project_id=found.labels.project_id, add=plan.tasks)
            return _pushed(plan, review.title, changes, len(changes))
        check_same_classes(found.labels, review, role="review")
        asked = tuple(door.asked(review))
        changes = _changes(plan, review, asked, door.server_time, found.labels.project_id)
        url = queue_url(settings.label_studio.url, review)
        return _pushed(plan, review.title, changes, _waiting(asked, changes), url=url)


def push_queue(settings: Settings, found: Found, plan_path: Path) -> Pushed:
    """Bring the reviewers' queue up to date with the plan; it is made if missing.

    What it lacks is added, what a newer model would ask otherwise is changed where it is, and what nobody need answer
    any more is served no longer (`queue.changes_of`). What somebody has answered or begun is left alone.
    """
    plan = read_plan(plan_path)
    workspace, run_key = Workspace.of(settings, found.labels.project_id), plan_path.parent.name
    with workspace.one_writer(), LabelStudio(settings.label_studio) as door:
        review = _review_project(settings, found, workspace, door)
        check_same_classes(found.labels, review, role="review")
        with queue.one_push(settings.label_studio.url, review.project_id):
            workspace.remember_queue(ReviewQueue(setting=settings.review_project or "", project_id=review.project_id))
            if is_earlier(door.label_config(review)):
                review = door.update_label_config(review, _screen(found, workspace))
            door.set_overlap(review, settings.overlap)
            begin(plan_path, settings)
            try:
                done, waiting = bring_up_to_date(
                    door, review, workspace, plan, found.labels.project_id, run_key=run_key
                )
            except DataError:  # found before anything is sent: the next plan may be another one
                end(plan_path)
                raise
            end(plan_path)
    url = queue_url(settings.label_studio.url, review)
    return _pushed(plan, review.title, done, waiting, url=url)


def bring_up_to_date(
    door: LabelStudio,
    review: Project,
    workspace: Workspace,
    plan: triage.Plan,
    labels_project_id: int,
    *,
    run_key: str,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[list[queue.Change], int]:
    """Do what the plan of a run asks for, noted in the trail; → (what was done, questions that wait then).

    May be done again after it died anywhere: the queue then ends as if it had not. The whole queue is read once. What
    can have come since is read at the end: our own questions, and those of another machine that pushed meanwhile.
    """
    door.mend_counts(review.project_id)
    asked = tuple(door.asked(review))
    changes = _changes(plan, review, asked, door.server_time, labels_project_id)
    _check(door, review, changes)
    _keep_withdrawn(workspace, asked, labels_project_id)
    _keep_asked(workspace, run_key, plan, asked, changes)
    planned = [change for change in changes if change.action != "add"]
    done = queue.carry_out(door, review, planned, run_key=run_key)
    retired = [change for change in done if change.action == "retire"]  # and read back as such
    _note_withdrawn(workspace, [(run_key, one.why, one.push_key, one.sample_id) for one in retired])
    adding = [change for change in changes if change.action == "add"]
    tasks = [change.task for change in adding if change.task is not None]
    gone = {change.task_id for change in done if change.action == "delete"}
    left = [each for each in asked if each.task_id not in gone]
    known = {each.task_id: each.push_key for each in left}
    added = set(queue.push(door, review, tasks, known=known, pause=pause).keys)
    newer = tuple(door.asked(review, after=max(known, default=0)))
    twice = queue.carry_out(door, review, queue.duplicates([*left, *newer], labels_project_id), run_key=run_key)
    waiting = _waiting([*left, *newer], [*done, *twice])
    done += [change for change in adding if change.push_key in added]
    return [*done, *twice], waiting


def _review_project(settings: Settings, found: Found, workspace: Workspace, door: LabelStudio) -> Project:
    """The reviewers' project; made where it is missing, by one process of this machine."""
    title = review_title(settings, found.labels)
    with queue.one_push(settings.label_studio.url, title):
        return find_review_project(settings, door, found.labels) or door.create_project(
            title,
            _screen(found, workspace),
            uncertainty_sampling=True,
            skipping=False,  # “not sure” is an answer, and says more than a skip
            empty_answers=False,
            overlap=settings.overlap,
            description=f"Labels of “{found.labels.title}” that are worth a look.",
        )


def _changes(
    plan: triage.Plan, review: Project, asked: Collection[Asked], now: datetime | None, labels_project_id: int
) -> list[queue.Change]:
    return queue.changes_of(
        asked,
        review,
        labels_project_id=labels_project_id,
        add=plan.tasks,
        update=plan.updates,
        withdraw=plan.withdrawals,
        now=now,
        withdrawn_after=queue.WITHDRAWN_AFTER,
    )


def _check(door: LabelStudio, review: Project, changes: Iterable[queue.Change]) -> None:
    """Raise `DataError`, before anything is sent, where a question does not fit the screen as it is now."""
    label_config = door.label_config(review)
    asking = (change.task for change in changes if change.task is not None)
    queue.check_payloads(asking, review, lambda tasks: check_payload(label_config, tasks))


def _keep_asked(
    workspace: Workspace, run_key: str, plan: triage.Plan, asked: Collection[Asked], changes: Sequence[queue.Change]
) -> None:
    """Note in the trail what the run asks: before it is sent, so that nothing is asked that was not noted."""
    for event in ("update", "revive"):
        again = [change.task for change in changes if change.action == event and change.task is not None]
        trail.append_asked(workspace, run_key, again, datetime.now(UTC), event=event)
    left = {each.push_key for each in asked if each.retired} - {change.push_key for change in changes if change.task}
    trail.append_asked(
        workspace, run_key, (task for task in plan.tasks if task.push_key not in left), datetime.now(UTC)
    )


def _keep_withdrawn(workspace: Workspace, asked: Collection[Asked], labels_project_id: int) -> None:
    """Note in the trail what was withdrawn: before it may be removed, and what a push that died has left unnoted."""
    _note_withdrawn(
        workspace,
        (
            (each.withdrawn_by, each.withdrawn, each.push_key, each.sample_id)
            for each in asked
            if each.retired and each.withdrawn_by and queue.is_ours(each, labels_project_id)
        ),
    )


def _note_withdrawn(workspace: Workspace, questions: Iterable[tuple[str, str, str, str]]) -> None:
    """questions: (run that withdrew it, why, push key, sample id)."""
    reasons: dict[tuple[str, str], dict[str, str]] = {}
    for run_key, why, push_key, sample_id in questions:
        reasons.setdefault((run_key, why), {})[push_key] = sample_id
    for (run_key, why), withdrawn in sorted(reasons.items()):
        trail.mark_withdrawn(workspace, run_key, withdrawn, at=datetime.now(UTC), why=why)


def _pushed(plan: triage.Plan, title: str, changes: Sequence[queue.Change], waiting: int, *, url: str = "") -> Pushed:
    return Pushed(
        title=title,
        added=sum(change.action == "add" for change in changes),
        waiting=waiting,
        minutes=plan.minutes,
        corrections=plan.expected_corrections,
        counts=plan.counts,
        changes=tuple(changes),
        url=url,
    )


def _waiting(asked: Iterable[Asked], changes: Collection[queue.Change]) -> int:
    """Questions of `asked` that nobody has answered and that are served once these changes are done."""
    ended = {change.task_id for change in changes if change.action in ("retire", "delete")}
    begun = sum(change.action in ("add", "revive") for change in changes)
    return begun + sum(each.waiting and not each.answers and each.task_id not in ended for each in asked)


def _screen(found: Found, workspace: Workspace) -> str:
    """The label config of the queue, made for images of this size."""
    with ImageStore(workspace.folder) as store:
        return review_config(found.labels.control.classes, small_images=are_small(store.longer_sides()))


def queue_url(label_studio_url: str, review: Project) -> str:
    """Where a reviewer starts."""
    return f"{label_studio_url}/projects/{review.project_id}/data?labeling=1"
