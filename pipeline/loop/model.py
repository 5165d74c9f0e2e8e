"""The middle stages of a round: train and register a model, score every noisy label with it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fasten_model.fitting import check_enough, fit, summary
from fasten_model.holding_out import HOLDOUT
from fasten_model.images.parquet import decode_image
from fasten_model.model import load_model, save_model
from fasten_model.presets import find_preset
from fasten_model.relabel import NEVER
from fasten_model.train import EpochMetrics
from fasten_model.train.checkpoint import CheckpointConfig, remove_checkpoint
from pipeline import scoring, trail
from pipeline.checks import checked
from pipeline.contradictions import contradictions, write_contradictions
from pipeline.errors import DataError, ServiceUnavailable
from pipeline.images import ImageStore
from pipeline.loop.survey import Pulled
from pipeline.saved_first import saved_first
from pipeline.settings import Settings
from pipeline.snapshot import Snapshot, open_snapshot
from pipeline.snapshot_store import source_of
from pipeline.tracking import Tracking, TrainingRun
from pipeline.training_data import load_clean, load_noisy
from pipeline.triage import count_decisions
from pipeline.workspace import OF_THE_QUEUE, Workspace, run_key, write_whole

logger = logging.getLogger(__name__)


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


def train_model(settings: Settings, pulled: Pulled, *, prefect_run_id: str | None = None) -> TrainedModel:
    """Train FasTEN on the snapshot, log the run to MLflow and register the model.

    Work that an earlier, interrupted round has finished is taken up: a model that is on disk is not trained again, a
    registered one is not registered again.
    """
    workspace = Workspace.of(settings, pulled.labels.project_id)
    key = run_key(pulled.snapshot_id, settings)
    folder = workspace.run_folder(key)
    tracking = Tracking(settings.tracking)
    if key in trail.reverted(workspace):
        raise DataError(f"run {key} was reverted and is not repeated: new labels or another FASTEN_SEED make a new run")
    finished = tracking.find_finished(key)
    if finished is not None and finished.model is not None and (folder / "fitted.json").exists():
        logger.info("run %s is already trained and logged: %s", key, finished.url)
        fitted = read_fitted(folder)
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
    # First: a run that MLflow keeps would keep its snapshot.
    check_enough(_labels(snapshot.noisy_path), _labels(snapshot.clean_path), snapshot.classes)
    tags = {
        "fasten.snapshot_id": pulled.snapshot_id,
        "label_studio.project": str(pulled.labels.project_id),
        "label_studio.project_title": pulled.labels.title,
        "label_studio.url": settings.label_studio.url,
        **({"prefect.flow_run_id": prefect_run_id} if prefect_run_id else {}),
    }
    with tracking.start(key, tags=tags, name=f"{pulled.labels.title[:80]} {key[:12]}") as run:
        run.log_params(
            {
                **settings.training.described(),
                "target_precision": settings.target_precision,
                "certainty": settings.certainty,
                "rho": "chosen" if settings.rho is None else settings.rho,
                "folds": settings.audit_folds,
                "holdout": _share_held_out(settings),
                **{name: getattr(settings, name) for name in OF_THE_QUEUE},
            }
        )
        size = find_preset(settings.preset).image_size
        run.log_dataset(source_of(settings, workspace, snapshot), snapshot.snapshot_id, snapshot.manifest.rows)
        if not (folder / "fitted.json").exists():
            _fit_into(folder, snapshot, settings, run)
        fitted = read_fitted(folder)
        for epoch in fitted["history"]:
            _log_values(run, epoch)
        run.log_transition(fitted["transition"], snapshot.classes)
        run.log_transition(fitted["training_transition"], snapshot.classes, name="training_transition")
        run.log_confusion(fitted["confusion"], snapshot.classes, "held_out_audited")
        run.log_epoch(_figures(fitted), step=0)
        version = run.register(folder / "model", example_image=_example_image(workspace, snapshot, size))
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
    """Train and leave `model/` and then `fitted.json` in `folder`; the latter says that both are whole.

    A training that was cut off goes on from its checkpoint: at most a minute back where it was killed, from where it
    was where it was asked to end.
    """
    size = find_preset(settings.preset).image_size
    workspace = Workspace(folder=snapshot.path.parent.parent)
    with ImageStore(workspace.folder) as store:
        noisy = load_noisy(snapshot, store, size=size, cache=workspace.decoded)
        runs = [run.run_key for run in reversed(trail.machine_runs(workspace))]
        clean = load_clean(snapshot, store, size=size, cache=workspace.decoded, runs=runs)
    logger.info(
        "training on %d noisy and %d audited samples, %d classes", len(noisy), len(clean), len(snapshot.classes)
    )
    with saved_first() as stop:
        fitted = fit(
            noisy,
            clean,
            snapshot.classes,
            settings.training,
            holdout=settings.holdout,
            folds=settings.audit_folds,
            target_precision=settings.target_precision,
            certainty=settings.certainty,
            rho=settings.rho,
            on_epoch=partial(_log_epoch, run),
            checkpoint=CheckpointConfig(folder=folder / "checkpoint", refuse_other=False),
            stop=stop,
        )
    logger.info("the model %s", fitted.choice.sentence())
    model = replace(fitted.model, metadata={**fitted.model.metadata, "snapshot_id": snapshot.snapshot_id})
    save_model(model, folder / "model")
    write_whole(folder / "fitted.json", json.dumps(summary(fitted)).encode())
    remove_checkpoint(folder / "checkpoint")


def _labels(path: Path) -> set[str]:
    """Those of a snapshot's file."""
    return set(pq.read_table(path, columns=["label"])["label"].to_pylist())


def _share_held_out(settings: Settings) -> float:
    """Of the random audits, by each of the models."""
    if settings.audit_folds > 1:
        return 1 / settings.audit_folds
    return HOLDOUT if settings.holdout is None else settings.holdout


def _log_epoch(run: TrainingRun, metrics: EpochMetrics) -> None:
    try:
        _log_values(run, asdict(metrics))
    except ServiceUnavailable as error:  # the whole history is logged once more when training has ended
        logger.warning("epoch %d is not in MLflow yet: %s", metrics.epoch, error)


def _log_values(run: TrainingRun, values: Mapping[str, Any]) -> None:
    run.log_epoch({name: float(value) for name, value in values.items() if name != "epoch"}, int(values["epoch"]))


def _figures(fitted: Mapping[str, Any]) -> dict[str, float]:
    """What is known once of a training, those that are known."""
    relabels = fitted["relabels"]
    figures = {
        "held_out_accuracy": fitted["accuracy"],
        "temperature": fitted["temperature"],
        "rho": relabels["rho"],
        "relabel_precision_promised": relabels["promised_precision"],
        "relabel_precision_expected": relabels["expected_precision"],
        "relabel_coverage": relabels["coverage"],
        "relabel_pairs": relabels["pairs"],
        "relabel_pairs_right": relabels["pairs_right"],
        "relabel_pairs_needed": relabels["pairs_needed"],
        "relabel_reviewed": relabels.get("reviewed"),  # a run may have been fitted before this was counted
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def read_fitted(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "fitted.json").read_bytes())
    return values


def _example_image(workspace: Workspace, snapshot: Snapshot, size: int) -> bytes:
    """The first audited image that decodes: one odd image among many must not cost the run."""
    hashes = pq.read_table(snapshot.clean_path, columns=["image_sha256"])["image_sha256"].to_pylist()
    with ImageStore(workspace.folder) as store:
        for _, data in store.iter_images(hashes):
            try:
                decode_image(data, size)
            except DataError:
                continue
            return data
    raise DataError("no audited image can be decoded: look at the images of the audited tasks")


def promise_broken(settings: Settings, workspace: Workspace, snapshot: Snapshot, run_key: str) -> bool:
    """Whether people have found so many applied relabels wrong that no more are applied; never of a ρ set by hand.

    In mode `suggest`, too: what that run promised would be told as if it could be relied on, and a later export in mode
    `auto` would apply it.
    """
    if settings.rho is not None:
        return False
    checks = checked(workspace, snapshot, run_key=run_key)
    broken = checks.contradict(settings.target_precision)
    if broken:
        logger.warning(
            "of %d applied relabels that people checked %d were right: nothing is changed without asking",
            checks.answered,
            checks.right,
        )
    return broken


def score_labels(settings: Settings, pulled: Pulled, trained: TrainedModel) -> Path:
    """Score every noisy sample of the snapshot; the path of `scores.parquet`."""
    path = trained.folder / "scores.parquet"
    model = load_model(trained.folder / "model", device=settings.device)
    snapshot = open_snapshot(pulled.snapshot)
    workspace = Workspace.of(settings, pulled.labels.project_id)
    with ImageStore(workspace.folder) as store:
        noisy = load_noisy(snapshot, store, size=model.image_size, cache=workspace.decoded)
        clean = load_clean(snapshot, store, size=model.image_size, cache=workspace.decoded)
    scored = scoring.score(
        model,
        noisy,
        rho=NEVER if promise_broken(settings, workspace, snapshot, trained.run_key) else None,
        target_precision=settings.target_precision,
        model_version=trained.model_version,
        mode=settings.mode,
    )
    decided = pq.read_table(snapshot.clean_path)
    write_contradictions(contradictions(model, clean, decided, model_version=trained.model_version), path)
    scoring.write_features(scored.features, scoring.features_path(path))
    scoring.write_scores(scored.table, path)
    logger.info("scored %d labels: %s", len(noisy), count_decisions(scoring.decisions_of(scored.table)))
    return path
