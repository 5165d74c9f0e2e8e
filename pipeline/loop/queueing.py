"""Triage as a stage: compose what people should look at, and see what becomes of what waits already."""

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import queue, scoring, trail, triage
from pipeline.contradictions import contradictions_known
from pipeline.corrected import standing_relabels
from pipeline.images import ImageStore
from pipeline.label_studio import Asked, LabelStudio
from pipeline.loop.model import promise_broken, read_fitted
from pipeline.loop.plans import begun_plan, keep_plan, plan_path
from pipeline.loop.survey import Found, Pulled, find_review_project
from pipeline.references import reference_images
from pipeline.settings import Settings
from pipeline.snapshot import Snapshot, open_snapshot
from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


def triage_scores(settings: Settings, found: Found, pulled: Pulled, scores_path: Path, *, recheck: int = 0) -> Path:
    """Compose the next questions and see what becomes of those that wait; the path of the plan.

    As `plan_questions`, kept where a push finds it.
    """
    path = plan_path(scores_path, recheck=recheck)
    keep_plan(plan_questions(settings, found, pulled, scores_path, recheck=recheck), path)
    return path


def plan_questions(
    settings: Settings, found: Found, pulled: Pulled, scores_path: Path, *, recheck: int = 0
) -> triage.Plan:
    """The next questions, as many as there is room for, and what becomes of those that wait; writes nothing.

    What was asked before, answered or not, is read from the review project itself. With `recheck` the questions are so
    many decisions of people that the model contradicts, and nothing else. A plan that a push has begun and not ended
    stands as it is.
    """
    if (begun := begun_plan(plan_path(scores_path, recheck=recheck), settings)) is not None:
        return begun
    snapshot, run_key = open_snapshot(pulled.snapshot), scores_path.parent.name
    labels_project_id = pulled.labels.project_id
    with LabelStudio(settings.label_studio) as door:
        review = find_review_project(settings, door, found.labels)
        asked = tuple(door.asked(review)) if review is not None else ()
    contradictions = contradictions_known(scores_path, Workspace.of(settings, labels_project_id))
    references = _references(settings, pulled, snapshot, contradictions)

    def key(sample_id: str, question: str = "") -> str:
        return queue.push_key(labels_project_id, sample_id, question)

    if recheck:
        known = {each.push_key for each in asked}
        shown = [row for row in contradictions if row["image_url"]]
        tasks = triage.recheck_tasks(shown, recheck, key=key, asked=known, references=references, run_key=run_key)
        return triage.Plan.of(tasks, pace=triage.pace_of(snapshot.labels_path), overlap=settings.overlap)
    labels, scores = pq.read_table(snapshot.labels_path), scoring.read_scores(scores_path)
    pace = triage.pace_of(labels)
    candidates = triage.stand(
        triage.candidates_of(scores, pq.read_table(snapshot.noisy_path)),
        _standing(settings, pulled, snapshot, scores_path.parent),
    )
    disputes = triage.disputes_of(pq.read_table(snapshot.undecided_path), labels)
    today, withdrawals = triage.revisit(
        [each for each in asked if each.waiting and each.untouched and queue.is_ours(each, labels_project_id)],
        candidates=candidates,
        disputes=disputes,
        decisions=_decisions(snapshot, labels),
        mode=settings.mode,
        pace=pace,
        references=references,
        run_key=run_key,
    )
    ended = {withdrawal.push_key for withdrawal in withdrawals}
    waiting = [each for each in asked if each.waiting and each.push_key not in ended]
    plan = triage.compose(
        candidates,
        disputes,
        # What was withdrawn is no question any more: where it is doubted again, it competes with all others.
        asked={each.push_key for each in asked if not (each.retired and each.untouched)},
        finished={each.push_key: each.answers for each in asked if each.finished},
        budget=_room(settings, waiting, pace),
        most_audits=_audits_wanted(settings, waiting),
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
        run_key=run_key,
    )
    if review is not None:
        told = {each.push_key: each for each in waiting}
        today = [task for task in today if queue.would_differ(told[task.push_key], task, review)]
    logger.info(
        "planned %d questions: %s; %d of those that wait say something else now, %d are withdrawn",
        len(plan.tasks),
        {kind: n for kind, n in plan.counts.items() if n},
        len(today),
        len(withdrawals),
    )
    return replace(plan, updates=tuple(today), withdrawals=tuple(withdrawals))


def _decisions(snapshot: Snapshot, labels: pa.Table) -> triage.Decisions:
    """What people have decided, and which samples the labels and audit projects have."""
    clean = pq.read_table(snapshot.clean_path, columns=["sample_id", "label"]).to_pylist()
    unusable = pq.read_table(snapshot.undecided_path, columns=["sample_id"], filters=[("state", "==", "unusable")])
    there = labels.filter(pc.field("origin") != "review")["sample_id"]
    return triage.Decisions(
        labels={
            **dict.fromkeys(unusable["sample_id"].to_pylist()),
            **{row["sample_id"]: row["label"] for row in clean},
        },
        known=set(pc.unique(there).to_pylist()),
    )


def _standing(settings: Settings, pulled: Pulled, snapshot: Snapshot, folder: Path) -> dict[str, str]:
    """Relabels of earlier promises: applied although this run could promise less, if its model suggests the same."""
    workspace = Workspace.of(settings, pulled.labels.project_id)
    promise = trail.promise_of(read_fitted(folder)["relabels"])
    if settings.mode != "auto" or promise == "by hand" or promise_broken(settings, workspace, snapshot, folder.name):
        return {}
    return standing_relabels(workspace, snapshot, run_key=folder.name, promises=promise == "made")


def _room(settings: Settings, waiting: Collection[Asked], pace: triage.Pace) -> triage.Budget:
    """What may be added to what waits already, in answers and in minutes."""
    missing = [(each.asked_as or "targeted", max(1, settings.overlap - each.answers)) for each in waiting]
    minutes = settings.review_minutes
    if minutes is not None:
        minutes = max(0.0, minutes - sum(pace.of(kind) * answers for kind, answers in missing) / 60)
    answers = sum(answers for _, answers in missing)
    return triage.Budget(reviews=max(0, settings.queue_size - answers), minutes=minutes)


def _audits_wanted(settings: Settings, waiting: Collection[Asked]) -> int:
    """What a full queue's share of random questions lacks: each push fills up what is left of the budget anew."""
    audits = sum(each.asked_as == "audit" for each in waiting)
    return max(0, math.ceil(settings.audit_share * settings.queue_size / settings.overlap) - audits)


def _references(
    settings: Settings, pulled: Pulled, snapshot: Snapshot, contradictions: Collection[Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    doubts = {row["sample_id"]: float(row["error_probability"]) for row in contradictions}
    with ImageStore(Workspace.of(settings, pulled.labels.project_id).folder) as store:
        return reference_images(snapshot, store, doubts)
