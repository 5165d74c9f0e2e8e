"""The stages of one round: survey, pull, train, score, triage, push, report.

Each stage is a plain function from small values and paths to small values and paths, so that a flow or the command line
only has to call them in order. What a stage writes has a name made from what went into it (`pipeline.workspace`) and is
written whole or not at all: a round that died is run again and takes up its own finished stages.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from fasten_model.checkpoint import load_model, save_model
from fasten_model.presets import find_preset
from fasten_model.train import EpochMetrics
from pipeline import queue, scoring
from pipeline.errors import ConfigError, DataError, ServiceError
from pipeline.image_store import ImageStore
from pipeline.images import Images
from pipeline.label_studio import LabelStudio, MissingProjectError
from pipeline.pull import check_same_classes, pull
from pipeline.records import Project, ProjectState, ReviewTask
from pipeline.report import RoundReport, headline, markdown
from pipeline.review_screen import REVIEW_CONTROL, review_config
from pipeline.settings import Settings
from pipeline.snapshot import Snapshot, open_snapshot
from pipeline.tracking import Tracking, TrainingRun
from pipeline.training import fit, summary
from pipeline.training_data import load_clean, load_noisy
from pipeline.triage import choose_queue, count_decisions
from pipeline.workspace import Completed, Workspace, config_digest, fingerprint, run_key, write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the survey found."""

    labels: Project
    audit: Project | None
    review: Project | None
    states: tuple[ProjectState, ...]
    """How the projects looked just before the pull."""
    fingerprint: str
    nothing_new: str
    """Why this round has nothing to do; empty where it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """The snapshot that the round works on."""

    labels: Project
    snapshot: Path
    snapshot_id: str
    fingerprint: str
    nothing_new: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """The model that the round trained, or found trained."""

    run_key: str
    folder: Path
    mlflow_run_id: str
    mlflow_url: str
    model_version: str
    held_out: int
    accuracy: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What the queue holds now."""

    title: str
    """Of the review project."""
    added: int
    waiting: int
    """Tasks that nobody has answered."""
    url: str = ""
    """Where a reviewer starts; empty while there is no review project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The round's report."""

    headline: str
    markdown: str


def find_projects(settings: Settings, door: LabelStudio) -> tuple[Project, Project | None, Project | None]:
    """(labels, audit, review) projects; the review project is None until a round has made it."""
    if settings.labels_project is None:
        raise ConfigError(
            "no labels project is set: set FASTEN_LABELS_PROJECT to the id or title of the project with the bulk labels"
        )
    labels = door.find_project(settings.labels_project, control=settings.label_control)
    audit = None
    if settings.audit_project is not None:
        audit = door.find_project(settings.audit_project, control=settings.label_control)
    return labels, audit, find_review_project(settings, door)


def find_review_project(settings: Settings, door: LabelStudio) -> Project | None:
    """The reviewers' project, or None where it has yet to be made. An id that does not exist is an error."""
    try:
        return door.find_project(settings.review_project, control=REVIEW_CONTROL)
    except MissingProjectError:
        if settings.review_project.isdecimal():
            raise
        return None


def survey(settings: Settings) -> Found:
    """Find the projects and see, in a handful of requests, whether anything has changed since the last round."""
    with LabelStudio(settings.label_studio) as door:
        labels, audit, review = find_projects(settings, door)
        states = {"labels": door.project_state(labels)}
        if audit is not None:
            states["audit"] = door.project_state(audit)
        if review is not None:
            states["review"] = door.project_state(review, answers_only=True)
    now = fingerprint(states)
    last = Workspace.of(settings, labels.project_id).completed()
    unchanged = last is not None and last.fingerprint == now and last.config == config_digest(settings)
    return Found(
        labels=labels,
        audit=audit,
        review=review,
        states=tuple(states.values()),
        fingerprint=now,
        nothing_new=f"nothing new in “{labels.title}” since snapshot {last.snapshot_id}" if unchanged and last else "",
    )


def pull_labels(settings: Settings, found: Found) -> Pulled:
    """Pull labels, audits, reviews and new images into a snapshot."""
    workspace = Workspace.of(settings, found.labels.project_id)
    with (
        LabelStudio(settings.label_studio) as door,
        Images(
            settings.images,
            root=workspace.folder,
            base_url=settings.label_studio.url,
            authorization=door.authorization,
        ) as images,
    ):
        result = pull(
            door,
            images,
            labels=found.labels,
            audit=found.audit,
            review=found.review,
            data_dir=workspace.folder,
            states=found.states,
        )
    snapshot = result.snapshot
    last = workspace.completed()
    same = last is not None and last.snapshot_id == snapshot.snapshot_id and last.config == config_digest(settings)
    if same and last is not None:
        # The projects were touched, but no label changed: remember how they look now, so that the next survey knows.
        workspace.remember(replace(last, fingerprint=found.fingerprint))
    return Pulled(
        labels=found.labels,
        snapshot=snapshot.path,
        snapshot_id=snapshot.snapshot_id,
        fingerprint=found.fingerprint,
        nothing_new=f"every label of “{found.labels.title}” is as in snapshot {snapshot.snapshot_id}" if same else "",
    )


def train_model(settings: Settings, pulled: Pulled, *, prefect_run_id: str | None = None) -> TrainedModel:
    """Train FasTEN on the snapshot, log the run to MLflow and register the model.

    Work that an earlier, interrupted round has finished is taken up: a model that is on disk is not trained again, a
    registered one is not registered again.
    """
    workspace = Workspace.of(settings, pulled.labels.project_id)
    key = run_key(pulled.snapshot_id, settings)
    folder = workspace.run_folder(key)
    tracking = Tracking(settings.tracking)
    finished = tracking.find_finished(key)
    if finished is not None and finished.model is not None and (folder / "fitted.json").exists():
        logger.info("run %s is already trained and logged: %s", key, finished.url)
        fitted = _read_fitted(folder)
        return TrainedModel(
            run_key=key,
            folder=folder,
            mlflow_run_id=finished.run_id,
            mlflow_url=finished.url,
            model_version=f"{finished.model.name}/{finished.model.version}",
            held_out=fitted["held_out"],
            accuracy=fitted["accuracy"],
        )
    snapshot = open_snapshot(pulled.snapshot)
    tags = {
        "fasten.snapshot_id": pulled.snapshot_id,
        "label_studio.project": str(pulled.labels.project_id),
        "label_studio.project_title": pulled.labels.title,
        "label_studio.url": settings.label_studio.url,
        **({"prefect.flow_run_id": prefect_run_id} if prefect_run_id else {}),
    }
    with tracking.start(key, tags=tags, name=f"{pulled.labels.title[:80]} {key[:12]}") as run:
        run.log_params(
            {**asdict(settings.training.resolved()), "holdout": settings.holdout, "queue_size": settings.queue_size}
        )
        run.log_dataset(snapshot.path, snapshot.snapshot_id, snapshot.manifest.rows)
        if not (folder / "fitted.json").exists():
            _fit_into(folder, snapshot, settings, run)
        fitted = _read_fitted(folder)
        run.log_transition(fitted["transition"], snapshot.classes)
        run.log_transition(fitted["training_transition"], snapshot.classes, name="training_transition")
        run.log_confusion(fitted["confusion"], snapshot.classes, "held_out_audited")
        figures = {"held_out_accuracy": fitted["accuracy"], "temperature": fitted["temperature"]}
        run.log_epoch({name: value for name, value in figures.items() if value is not None}, step=0)
        version = run.register(folder / "model", example_image=_first_image(workspace, snapshot))
        return TrainedModel(
            run_key=key,
            folder=folder,
            mlflow_run_id=run.run_id,
            mlflow_url=run.url,
            model_version=f"{version.name}/{version.version}",
            held_out=fitted["held_out"],
            accuracy=fitted["accuracy"],
        )


def _fit_into(folder: Path, snapshot: Snapshot, settings: Settings, run: TrainingRun) -> None:
    """Train and leave `model/` and then `fitted.json` in `folder`; the latter says that both are whole."""
    size = find_preset(settings.preset).image_size
    with ImageStore(snapshot.path.parent.parent) as store:
        noisy = load_noisy(snapshot, store, size=size)
        clean = load_clean(snapshot, store, size=size)
    logger.info(
        "training on %d noisy and %d audited samples, %d classes", len(noisy), len(clean), len(snapshot.classes)
    )
    fitted = fit(
        noisy, clean, snapshot.classes, settings.training, holdout=settings.holdout, on_epoch=partial(_log_epoch, run)
    )
    model = replace(fitted.model, metadata={**fitted.model.metadata, "snapshot_id": snapshot.snapshot_id})
    save_model(model, folder / "model")
    write_whole(folder / "fitted.json", json.dumps(summary(fitted)).encode())


def _log_epoch(run: TrainingRun, metrics: EpochMetrics) -> None:
    values = asdict(metrics)
    run.log_epoch({name: float(value) for name, value in values.items() if name != "epoch"}, metrics.epoch)


def _read_fitted(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "fitted.json").read_bytes())
    return values


def _first_image(workspace: Workspace, snapshot: Snapshot) -> bytes:
    sha256 = pq.read_table(snapshot.clean_path, columns=["image_sha256"])["image_sha256"][0].as_py()
    with ImageStore(workspace.folder) as store:
        return next(data for _, data in store.iter_images([sha256]))


def score_labels(settings: Settings, pulled: Pulled, trained: TrainedModel) -> Path:
    """Score every noisy sample of the snapshot; the path of `scores.parquet`."""
    path = trained.folder / "scores.parquet"
    model = load_model(trained.folder / "model", device=settings.device)
    snapshot = open_snapshot(pulled.snapshot)
    with ImageStore(Workspace.of(settings, pulled.labels.project_id).folder) as store:
        noisy = load_noisy(snapshot, store, size=model.image_size)
    scores = scoring.score(model, noisy, rho=settings.rho, model_version=trained.model_version)
    scoring.write_scores(scores, path)
    logger.info("scored %d labels: %s", len(noisy), count_decisions(scoring.decisions_of(scores)))
    return path


_QUEUE = TypeAdapter(list[ReviewTask])


def triage_scores(pulled: Pulled, scores_path: Path) -> Path:
    """Order what people should look at, most valuable first; the path of `queue.json`."""
    scores = scoring.read_scores(scores_path)
    noisy = pq.read_table(open_snapshot(pulled.snapshot).noisy_path, columns=["sample_id", "image_url"])
    urls = dict(zip(noisy["sample_id"].to_pylist(), noisy["image_url"].to_pylist(), strict=True))
    tasks = choose_queue(
        scoring.candidates(scores, urls), key=lambda sample: queue.push_key(pulled.labels.project_id, sample)
    )
    path = scores_path.with_name("queue.json")
    write_whole(path, _QUEUE.dump_json(tasks))
    return path


def push_queue(settings: Settings, found: Found, queue_path: Path, *, dry_run: bool = False) -> Pushed:
    """Add to the reviewers' queue what it lacks, up to its size; the review project is made if missing.

    With `dry_run` nothing is made or sent, and the figures are what they would be.
    """
    try:
        tasks = _QUEUE.validate_json(queue_path.read_bytes())
    except (OSError, ValidationError):
        raise DataError(f"{queue_path} is missing or damaged: run `fasten retrain` again") from None
    with LabelStudio(settings.label_studio) as door:
        review = find_review_project(settings, door)
        if review is None:
            if dry_run:
                return Pushed(title=settings.review_project, added=min(len(tasks), settings.queue_size), waiting=0)
            review = door.create_project(
                settings.review_project,
                review_config(found.labels.control.classes),
                uncertainty_sampling=True,
                skipping=False,  # “not sure” is an answer, and says more than a skip
                empty_answers=False,
                description=f"Labels of “{found.labels.title}” that the model doubts, the most doubtful first.",
            )
        check_same_classes(found.labels, review, role="review")
        waiting = door.unanswered(review)
        room = max(0, settings.queue_size - waiting)
        added = queue.push(door, review, tasks, limit=room, dry_run=dry_run).added
    return Pushed(
        title=review.title,
        added=added,
        waiting=waiting if dry_run else waiting + added,
        url=queue_url(settings.label_studio.url, review),
    )


def report_run(
    settings: Settings,
    pulled: Pulled,
    trained: TrainedModel,
    scores_path: Path,
    pushed: Pushed,
    *,
    prefect_url: str = "",
) -> Summary:
    """Tell people what the round did, and remember it as completed: its last act."""
    snapshot = open_snapshot(pulled.snapshot)
    scores = scoring.read_scores(scores_path)
    clean = pq.read_table(snapshot.clean_path, columns=["label", "given_label", "provenance"]).to_pylist()
    pairs = [row for row in clean if row["provenance"] == "audit" and row["given_label"] is not None]
    report = RoundReport(
        labels_project=pulled.labels.title,
        review_project=pushed.title,
        snapshot_id=pulled.snapshot_id,
        noisy=scores.num_rows,
        audited=sum(row["provenance"] == "audit" for row in clean),
        reviewed=sum(row["provenance"] == "review" for row in clean),
        rejected=snapshot.manifest.rejected,
        pairs=len(pairs),
        pairs_wrong=sum(row["given_label"] != row["label"] for row in pairs),
        expected_wrong=sum(scores["error_probability"].to_pylist()),
        decisions=count_decisions(scoring.decisions_of(scores)),
        rho=settings.rho,
        temperature=_read_fitted(trained.folder)["temperature"],
        held_out=trained.held_out,
        accuracy=trained.accuracy,
        queue_added=pushed.added,
        queue_waiting=pushed.waiting,
        model_version=trained.model_version,
        links={
            "Queue": pushed.url,
            "MLflow run": trained.mlflow_url,
            **({"Prefect run": prefect_url} if prefect_url else {}),
        },
    )
    summary = Summary(headline=headline(report), markdown=markdown(report))
    write_whole(trained.folder / "report.json", json.dumps(asdict(report)).encode())
    write_whole(trained.folder / "report.md", summary.markdown.encode())
    try:
        Tracking(settings.tracking).log_report(trained.mlflow_run_id, summary.markdown)
    except ServiceError as error:  # the round is done; a page in MLflow is not worth doing it again
        logger.warning("the report is not in MLflow: %s", error)
    Workspace.of(settings, pulled.labels.project_id).remember(
        Completed(
            fingerprint=pulled.fingerprint,
            snapshot_id=pulled.snapshot_id,
            config=config_digest(settings),
            run_key=trained.run_key,
        )
    )
    logger.info("%s", summary.headline)
    return summary


def queue_url(label_studio_url: str, review: Project) -> str:
    """Where a reviewer starts."""
    return f"{label_studio_url}/projects/{review.project_id}/data?labeling=1"


def last_run(settings: Settings) -> Path:
    """The folder of the last completed round of the labels project."""
    with LabelStudio(settings.label_studio) as door:
        labels, _, _ = find_projects(settings, door)
    workspace = Workspace.of(settings, labels.project_id)
    completed = workspace.completed()
    if completed is None:
        raise DataError(f"no round of “{labels.title}” has been completed yet: run `fasten retrain`")
    return workspace.run_folder(completed.run_key)


def last_report(settings: Settings) -> str:
    """The report of the last completed round, as Markdown."""
    path = last_run(settings) / "report.md"
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise DataError(f"{path} is missing: run `fasten retrain --force`") from None
