"""The demonstration, played: enter labels, retrain, let reviewers work, retrain, and tell the truth at the end.

The loop is run as its users run it, through Prefect's deployment, and knows nothing of the truth; this module does, and
only reads what a round left behind in order to judge it.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fasten_model.holding_out import NOWHERE, folds_of
from fasten_model.images.source import in_memory
from fasten_model.model import Model, load_model
from fasten_model.predict import predict_logits
from fasten_model.train import train_cross_entropy
from pipeline import loop, orchestrator, scoring
from pipeline.corrected import corrected_labels
from pipeline.demo.enter import Entered, Titles, email_of, enter_dataset
from pipeline.demo.records import DemoDataset
from pipeline.demo.review import Reviewed, review_queue
from pipeline.demo.scoreboard import RoundRow, accuracy, load_rows, save_rows, wrong_labels
from pipeline.errors import ConfigError, ServiceError
from pipeline.images.store import ImageStore
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.review_screen import REVIEW_CONTROL
from pipeline.setting_sources import DEMO_ENV
from pipeline.settings import Settings, load_settings
from pipeline.snapshot import Snapshot, latest_snapshot
from pipeline.tracking import Tracking
from pipeline.training_data import load_clean, load_noisy
from pipeline.workspace import Workspace, write_whole

logger = logging.getLogger(__name__)

REVIEWERS = 2
REVIEWER_ACCURACY = 0.97


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """Where the demonstration stands."""

    rows: tuple[RoundRow, ...]
    """All rounds so far, the earlier calls' included."""
    links: Mapping[str, str]
    """Name → URL."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    logger.info("▸ %s", name)
    started = time.monotonic()
    yield
    logger.info("✓ %s: %.1f s", name, time.monotonic() - started)


@contextmanager
def _quiet_training() -> Iterator[None]:
    """The baseline's epochs would read as if they were the loop's."""
    training = logging.getLogger("fasten_model")
    level = training.level
    training.setLevel(logging.WARNING)
    try:
        yield
    finally:
        training.setLevel(level)


def play(settings: Settings, dataset: DemoDataset, *, reviews: int, seed: int = 0) -> Played:
    """Enter the data set, then play rounds: two the first time, one more with each further call.

    Between two rounds simulated reviewers take `reviews` tasks of the queue, in its order. Raises `ServiceError` where
    a round does not complete.
    """
    api_url = settings.prefect_api_url
    if api_url is None or settings.label_studio_password is None:
        raise ConfigError(
            "the demonstration signs people up and needs a Label Studio of its own: unset FASTEN_LABEL_STUDIO_URL and "
            "run `fasten up`, or set FASTEN_LABEL_STUDIO_PASSWORD for its people"
        )
    titles = Titles.of(dataset.name)
    review_title = f"{titles.labels}, review"
    with (
        phase(f"entering {len(dataset.samples):,} images and their labels into Label Studio"),
        LabelStudio(settings.label_studio) as door,
    ):
        entered = enter_dataset(door, dataset, titles, password=settings.label_studio_password)
    _point_settings_at(settings, entered, review_title, dataset)
    settings = load_settings(
        labels_project=str(entered.labels.project_id),
        audit_project=str(entered.audit.project_id),
        review_project=review_title,
    )
    board = settings.home / "demo" / f"{dataset.name}.json"
    rows = load_rows(board) if entered.added == 0 and board.exists() else []
    rounds = 1 if rows else 2
    links: Mapping[str, str] = {}
    for _ in range(rounds):
        started = time.monotonic()
        reviewed = None
        if rows:
            with phase(f"{REVIEWERS} reviewers take up to {reviews} tasks of the queue"):
                reviewed = _let_people_review(settings, dataset, entered, review_title, reviews, seed=seed + len(rows))
        with phase(f"round {len(rows) + 1}: prefect deployment run {orchestrator.DEPLOYMENT}"):
            outcome = _retrain(api_url, entered, review_title)
        with phase("comparing with the truth, and with plain cross-entropy on the same data"), _quiet_training():
            row, mlflow_url = _judge(settings, dataset, entered, number=len(rows) + 1, reviewed=reviewed)
        rows.append(replace(row, seconds=time.monotonic() - started))
        save_rows(rows, board)
        links = _links(settings, entered, review_title, mlflow_url, outcome.url)
    return Played(rows=tuple(rows), links=links)


def _point_settings_at(settings: Settings, entered: Entered, review_title: str, dataset: DemoDataset) -> None:
    """Make the demonstration's projects the defaults, so that anybody's `fasten/retrain` works on them."""
    flip = dataset.name in ("fashion-mnist", "cifar10n")
    lines = {
        "FASTEN_LABELS_PROJECT": str(entered.labels.project_id),
        "FASTEN_AUDIT_PROJECT": str(entered.audit.project_id),
        "FASTEN_REVIEW_PROJECT": f"'{review_title}'",
        "FASTEN_HORIZONTAL_FLIP": str(flip).lower(),
    }
    write_whole(settings.home / DEMO_ENV, "".join(f"{name}={value}\n" for name, value in lines.items()).encode())


def _retrain(api_url: str, entered: Entered, review_title: str) -> orchestrator.RunOutcome:
    # Said outright, so that a labels project set in the environment is left alone.
    projects = {
        "labels_project": str(entered.labels.project_id),
        "audit_project": str(entered.audit.project_id),
        "review_project": review_title,
    }
    run_id = orchestrator.start_run(api_url, parameters=projects)
    logger.info("Prefect: %s", orchestrator.flow_run_url(api_url, run_id))
    outcome = orchestrator.follow_run(api_url, run_id, on_log=lambda line: logger.info("  %s", line))
    if not outcome.completed:
        raise ServiceError(f"flow run {outcome.name} ended {outcome.state_name}: {outcome.message} ({outcome.url})")
    logger.info("%s: %s", outcome.state_name, outcome.message)
    return outcome


def _let_people_review(
    settings: Settings, dataset: DemoDataset, entered: Entered, review_title: str, count: int, *, seed: int
) -> Reviewed:
    assert settings.label_studio_password is not None
    snapshot = latest_snapshot(Workspace.of(settings, entered.labels.project_id).folder)
    assert snapshot is not None
    with LabelStudio(settings.label_studio) as door:
        project = door.find_project(review_title, control=REVIEW_CONTROL)
        people = [
            door.add_user(email_of(f"reviewer-{i + 1}"), settings.label_studio_password.get_secret_value())
            for i in range(REVIEWERS)
        ]
    doors = [LabelStudio(LabelStudioConfig(url=settings.label_studio.url, token=user.token)) for user in people]
    try:
        return review_queue(
            doors,
            project,
            dataset.truths,
            _given(snapshot),
            count=count,
            accuracy=REVIEWER_ACCURACY,
            rng=np.random.default_rng(seed),
        )
    finally:
        for each in doors:
            each.close()


def _judge(
    settings: Settings, dataset: DemoDataset, entered: Entered, *, number: int, reviewed: Reviewed | None
) -> tuple[RoundRow, str]:
    """The row of the round that has just been completed, and its MLflow run's page."""
    workspace = Workspace.of(settings, entered.labels.project_id)
    completed, snapshot = workspace.completed(), latest_snapshot(workspace.folder)
    assert completed is not None
    assert snapshot is not None
    run = workspace.run_folder(completed.run_key)
    scores = scoring.read_scores(run / "scores.parquet")
    before = _given(snapshot)
    handed_out = corrected_labels(workspace, snapshot, mode=settings.mode)
    after = {sample: label for sample, label in _by_sample(handed_out, "label").items() if sample in before}
    taken = after | _by_sample(scores, "model_label")
    wrong_before, wrong_after = wrong_labels(dataset.truths, before), wrong_labels(dataset.truths, after)
    with LabelStudio(settings.label_studio) as door:
        review = loop.find_review_project(settings, door, entered.labels)
        asked = door.asked(review) if review is not None else ()
        waiting = sum(one.waiting and not one.answers for one in asked)
    finished = Tracking(settings.tracking).find_finished(completed.run_key)
    fasten = load_model(run / "model", visits=False)
    row = RoundRow(
        round_number=number,
        labels=wrong_before.total,
        wrong_before=wrong_before.count,
        wrong_after=wrong_after.count,
        wrong_if_taken=wrong_labels(dataset.truths, taken).count,
        accuracy=_accuracy(fasten, dataset),
        plain_accuracy=_accuracy(_plain(settings, snapshot, workspace, fasten), dataset),
        waiting=waiting,
        shown=reviewed.asked if reviewed else 0,
        shown_wrong=reviewed.really_wrong if reviewed else 0,
    )
    return row, finished.url if finished else ""


def _given(snapshot: Snapshot) -> dict[str, str]:
    """What the annotators had said of each sample, decided ones included."""
    given = _by_sample(pq.read_table(snapshot.noisy_path), "label")
    given |= _by_sample(pq.read_table(snapshot.clean_path), "given_label")
    given |= _by_sample(pq.read_table(snapshot.undecided_path), "label")
    return given


def _by_sample(table: pa.Table, column: str) -> dict[str, str]:
    """`sample_id` → the column's value, where there is one."""
    both = zip(table["sample_id"].to_pylist(), table[column].to_pylist(), strict=True)
    return {sample_id: value for sample_id, value in both if value is not None}


def _plain(settings: Settings, snapshot: Snapshot, workspace: Workspace, like: Model) -> Model:
    """The same trunk and schedule, trained with plain cross-entropy on every label that FasTEN had."""
    with ImageStore(workspace.folder) as store:
        noisy = load_noisy(snapshot, store, size=like.image_size, cache=workspace.decoded)
        clean = load_clean(snapshot, store, size=like.image_size, cache=workspace.decoded)
    held = folds_of(clean, len(snapshot.classes), holdout=settings.holdout, folds=settings.audit_folds) != NOWHERE
    taught = clean if settings.audit_folds > 1 else clean.at(~held)  # of several models, some have each label
    trained = train_cross_entropy(
        torch.cat([in_memory(noisy.images), in_memory(taught.images)]),
        torch.cat([noisy.labels, taught.labels]),
        len(snapshot.classes),
        settings.training,
    )
    return replace(like, network=trained.network)


def _accuracy(model: Model, dataset: DemoDataset) -> float | None:
    """On the held-out images, which the loop never sees."""
    if not dataset.held_out:
        return None
    predicted = predict_logits(model.network, model.decode([each.image for each in dataset.held_out]))[0].argmax(dim=1)
    names = [model.classes[index] for index in predicted.tolist()]
    return accuracy([each.truth for each in dataset.held_out], names)


def _links(
    settings: Settings, entered: Entered, review_title: str, mlflow_url: str, prefect_url: str
) -> Mapping[str, str]:
    with LabelStudio(settings.label_studio) as door:
        review = door.find_project(review_title, control=REVIEW_CONTROL)
    return {
        "review queue": loop.queue_url(settings.label_studio.url, review),
        "labels": f"{settings.label_studio.url}/projects/{entered.labels.project_id}",
        "MLflow run": mlflow_url,
        "Prefect run": prefect_url,
    }
