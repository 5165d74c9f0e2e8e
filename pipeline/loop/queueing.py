"""The stages that reach people: compose what they should look at, and put it into their queue."""

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from pipeline import queue, scoring, trail, triage
from pipeline.contradictions import contradictions_known
from pipeline.corrected import standing_relabels
from pipeline.errors import DataError
from pipeline.images import ImageStore
from pipeline.label_studio import Asked, LabelStudio
from pipeline.loop.model import promise_broken, read_fitted
from pipeline.loop.survey import Found, Pulled, find_review_project, review_title
from pipeline.records import AskedAs, Project
from pipeline.references import reference_images
from pipeline.review_screen import are_small, is_earlier, review_config
from pipeline.settings import Settings
from pipeline.snapshot import Snapshot, open_snapshot
from pipeline.snapshot.pull import check_same_classes
from pipeline.workspace import ReviewQueue, Workspace, write_whole

logger = logging.getLogger(__name__)

_PLAN = TypeAdapter(triage.Plan)
QUEUE_FILE, RECHECK_FILE, PREVIEW_FILE = "queue.json", "recheck.json", "preview.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What the queue holds now."""

    title: str
    """Of the review project."""
    added: int
    waiting: int
    """Tasks that nobody has answered."""
    minutes: float
    """What the planned questions take of people's time, by their own pace."""
    corrections: float
    """Labels that the answers are expected to set right."""
    counts: Mapping[AskedAs, int]
    """Planned questions by why they are asked."""
    url: str = ""
    """Where a reviewer starts; empty while there is no review project."""


def triage_scores(
    settings: Settings, found: Found, pulled: Pulled, scores_path: Path, *, recheck: int = 0, dry_run: bool = False
) -> Path:
    """Compose the next questions, as many as there is room for; the path of the plan.

    What was asked before, answered or not, is read from the review project itself. With `recheck` the questions are so
    many decisions of people that the model contradicts, and nothing else.
    """
    snapshot, folder = open_snapshot(pulled.snapshot), scores_path.parent
    with LabelStudio(settings.label_studio) as door:
        review = find_review_project(settings, door, found.labels)
        asked = tuple(door.asked(review)) if review is not None else ()
    known = {each.push_key for each in asked}
    contradictions = contradictions_known(scores_path, Workspace.of(settings, pulled.labels.project_id))
    references = _references(settings, pulled, snapshot, contradictions)

    def key(sample_id: str, question: str = "") -> str:
        return queue.push_key(pulled.labels.project_id, sample_id, question)

    if recheck:
        shown = [row for row in contradictions if row["image_url"]]
        tasks = triage.recheck_tasks(shown, recheck, key=key, asked=known, references=references, run_key=folder.name)
        plan = triage.Plan.of(tasks, pace=triage.pace_of(snapshot.labels_path), overlap=settings.overlap)
    else:
        labels, scores = pq.read_table(snapshot.labels_path), scoring.read_scores(scores_path)
        pace = triage.pace_of(labels)
        candidates = triage.candidates_of(scores, pq.read_table(snapshot.noisy_path))
        plan = triage.compose(
            triage.stand(candidates, _standing(settings, pulled, snapshot, folder)),
            triage.disputes_of(pq.read_table(snapshot.undecided_path), labels),
            asked=known,
            finished={each.push_key: each.answers for each in asked if each.finished},
            budget=_room(settings, asked, pace),
            most_audits=_audits_wanted(settings, asked),
            pace=pace,
            mode=settings.mode,
            audit_share=settings.audit_share,
            check_share=settings.check_share,
            class_floor=settings.class_floor,
            overlap=settings.overlap,
            classes=snapshot.classes,
            features=scoring.read_features(scoring.features_path(scores_path), rows=scores.num_rows),
            key=key,
            references=references,
            run_key=folder.name,
        )
    logger.info("planned %d questions: %s", len(plan.tasks), {kind: n for kind, n in plan.counts.items() if n})
    path = folder / (PREVIEW_FILE if dry_run else RECHECK_FILE if recheck else QUEUE_FILE)
    write_whole(path, _PLAN.dump_json(plan))
    return path


def _standing(settings: Settings, pulled: Pulled, snapshot: Snapshot, folder: Path) -> dict[str, str]:
    """Relabels that are applied although this run could promise none."""
    workspace = Workspace.of(settings, pulled.labels.project_id)
    none = trail.promise_of(read_fitted(folder)["relabels"]) == "none"
    if settings.mode != "auto" or not none or promise_broken(settings, workspace, snapshot):
        return {}
    return standing_relabels(workspace, snapshot)


def _room(settings: Settings, asked: Collection[Asked], pace: triage.Pace) -> triage.Budget:
    """What may be added to what waits already, in answers and in minutes."""
    waiting = [
        (each.asked_as or "targeted", max(1, settings.overlap - each.answers)) for each in asked if not each.finished
    ]
    minutes = settings.review_minutes
    if minutes is not None:
        minutes = max(0.0, minutes - sum(pace.of(kind) * answers for kind, answers in waiting) / 60)
    answers = sum(answers for _, answers in waiting)
    return triage.Budget(reviews=max(0, settings.queue_size - answers), minutes=minutes)


def _audits_wanted(settings: Settings, asked: Collection[Asked]) -> int:
    """What a full queue's share of random questions lacks: each push fills up what is left of the budget anew."""
    waiting = sum(each.asked_as == "audit" for each in asked if not each.finished)
    return max(0, math.ceil(settings.audit_share * settings.queue_size / settings.overlap) - waiting)


def _references(
    settings: Settings, pulled: Pulled, snapshot: Snapshot, contradictions: Collection[Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    doubts = {row["sample_id"]: float(row["error_probability"]) for row in contradictions}
    with ImageStore(Workspace.of(settings, pulled.labels.project_id).folder) as store:
        return reference_images(snapshot, store, doubts)


def push_queue(settings: Settings, found: Found, plan_path: Path, *, dry_run: bool = False) -> Pushed:
    """Put the planned questions into the reviewers' queue, those that it lacks; it is made if missing.

    With `dry_run` nothing is made or sent, and the figures are what they would be.
    """
    try:
        plan = _PLAN.validate_json(plan_path.read_bytes())
    except (OSError, ValidationError):
        raise DataError(f"{plan_path} is missing or damaged: run `fasten retrain --force`") from None
    workspace = Workspace.of(settings, found.labels.project_id)
    planned = Pushed(
        title=review_title(settings, found.labels),
        added=len(plan.tasks),
        waiting=0,
        minutes=plan.minutes,
        corrections=plan.expected_corrections,
        counts=plan.counts,
    )
    with workspace.one_writer(), LabelStudio(settings.label_studio) as door:
        review = find_review_project(settings, door, found.labels)
        if review is None and dry_run:
            return planned
        if review is None:
            review = door.create_project(
                review_title(settings, found.labels),
                _screen(found, workspace),
                uncertainty_sampling=True,
                skipping=False,  # “not sure” is an answer, and says more than a skip
                empty_answers=False,
                overlap=settings.overlap,
                description=f"Labels of “{found.labels.title}” that are worth a look.",
            )
        check_same_classes(found.labels, review, role="review")
        if not dry_run:
            workspace.remember_queue(ReviewQueue(setting=settings.review_project or "", project_id=review.project_id))
            if is_earlier(door.label_config(review)):
                review = door.update_label_config(review, _screen(found, workspace))
            door.set_overlap(review, settings.overlap)
            trail.append_asked(workspace, plan_path.parent.name, plan.tasks, datetime.now(UTC))
        added = queue.push(door, review, plan.tasks, dry_run=dry_run).added
        waiting = door.unanswered(review)
    url = queue_url(settings.label_studio.url, review)
    return replace(planned, title=review.title, added=added, waiting=waiting, url=url)


def _screen(found: Found, workspace: Workspace) -> str:
    """The label config of the queue, made for images of this size."""
    with ImageStore(workspace.folder) as store:
        return review_config(found.labels.control.classes, small_images=are_small(store.longer_sides()))


def queue_url(label_studio_url: str, review: Project) -> str:
    """Where a reviewer starts."""
    return f"{label_studio_url}/projects/{review.project_id}/data?labeling=1"
