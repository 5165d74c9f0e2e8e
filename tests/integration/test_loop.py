"""The whole loop on 300 digits: what a round leaves behind, a round with nothing new, and a round after reviews."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow.parquet as pq
import pytest
from mlflow.entities import Run

from fasten_model import fitting
from fasten_model.holding_out import is_held_out
from fasten_model.model import load_model
from fasten_model.relabel import TARGET_PRECISION
from fasten_model.scoring import DECISIONS
from fasten_model.train import TrainConfig, Trained, TrainingSet, train
from pipeline import trail
from pipeline.demo.datasets import DemoDataset
from pipeline.demo.enter import Entered
from pipeline.images.store import ImageStore
from pipeline.label_studio import LabelStudio
from pipeline.queue import push_key
from pipeline.records import NOT_SURE, Task
from pipeline.review_screen import REVIEW_CONTROL
from pipeline.schema import IMAGES, SCORES
from pipeline.snapshot import Snapshot, open_snapshot
from pipeline.training_data import load_clean
from pipeline.workspace import OF_THE_QUEUE, Completed

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from tests.integration.conftest import Loop, NewLoop

RHO = 0.6
QUEUE_SIZE = 40
EPOCHS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round, and what there was right after it."""

    state: "State[Any]"
    completed: Completed
    snapshot: Snapshot
    folder: Path
    """Of the run."""
    files: set[str]
    queue: list[Task]
    runs: list[Run]
    versions: dict[str, tuple[str, ...]]
    trained_on: list[TrainingSet]
    """What each training that this round did was given."""


@pytest.fixture(scope="module")
def loop(new_loop: "NewLoop", entered: Entered) -> "Loop":
    return new_loop(
        "loop",
        LABELS_PROJECT=entered.labels.title,
        AUDIT_PROJECT=str(entered.audit.project_id),
        QUEUE_SIZE=str(QUEUE_SIZE),
        EPOCHS=str(EPOCHS),
        RHO=str(RHO),
    )


def play(loop: "Loop", door: LabelStudio, entered: Entered) -> Round:
    trained_on: list[TrainingSet] = []

    def spy(training_set: TrainingSet, *args: Any, **kwargs: Any) -> Trained:
        trained_on.append(training_set)
        return train(training_set, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "train", spy)
        state = loop.run()
    workspace = loop.workspace(entered.labels)
    completed = workspace.completed()
    assert completed is not None, state.message
    return Round(
        state=state,
        completed=completed,
        snapshot=open_snapshot(workspace.folder / "snapshots" / completed.snapshot_id),
        folder=workspace.run_folder(completed.run_key),
        files=loop.files(),
        queue=loop.queue(door),
        runs=loop.runs(),
        versions=loop.versions(),
        trained_on=trained_on,
    )


@pytest.fixture(scope="module")
def first(loop: "Loop", door: LabelStudio, entered: Entered) -> Round:
    return play(loop, door, entered)


@pytest.fixture(scope="module")
def second(loop: "Loop", door: LabelStudio, entered: Entered, first: Round) -> Round:
    """Nothing has happened since the first."""
    assert first.state.is_completed()
    return play(loop, door, entered)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What people answered after the second round: the queue in its order, as far as its first random question."""

    not_sure: Task
    """The first of all."""
    labels: dict[str, str]
    """`sample_id` → class, of the others."""
    drawn: Task
    """The one that was drawn at random, and answered last."""

    @property
    def samples(self) -> set[str]:
        return {self.not_sure.sample_id, *self.labels}


@pytest.fixture(scope="module")
def answers(loop: "Loop", door: LabelStudio, second: Round, digits: DemoDataset) -> Answers:
    assert second.state.is_completed()
    review = door.find_project(loop.review_title, control=REVIEW_CONTROL)
    unsure = door.next_task(review)
    assert unsure is not None
    assert unsure.data["asked_as"] == "targeted"
    door.submit(review, unsure, verdict=NOT_SURE, lead_time_s=4.0)
    labels: dict[str, str] = {}
    while True:
        task = door.next_task(review)
        assert task is not None
        labels[task.sample_id] = digits.truths[task.sample_id]
        door.submit(review, task, label=labels[task.sample_id], lead_time_s=2.5)
        if task.data["asked_as"] == "audit":
            return Answers(not_sure=unsure, labels=labels, drawn=task)


@pytest.fixture(scope="module")
def third(loop: "Loop", door: LabelStudio, entered: Entered, answers: Answers) -> Round:
    assert answers.drawn.sample_id in answers.labels
    return play(loop, door, entered)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def ids(path: Path) -> set[str]:
    return {row["sample_id"] for row in rows(path)}


def asked(run: Round) -> list[dict[str, Any]]:
    plan: dict[str, Any] = json.loads((run.folder / "queue.json").read_bytes())
    questions: list[dict[str, Any]] = plan["tasks"]
    return questions


# The first round -----------------------------------------------------------------------------------------------------


def test_the_snapshot_holds_what_everybody_said(first: Round, digits: DemoDataset) -> None:
    snapshot = first.snapshot
    assert snapshot.classes == digits.classes
    assert snapshot.manifest.rejected == {}
    samples = {sample.sample_id: sample for sample in digits.samples}
    said = Counter((row["sample_id"], row["origin"], row["label"]) for row in rows(snapshot.labels_path))
    expected = Counter((sample.sample_id, "labels", vote.label) for sample in digits.samples for vote in sample.votes)
    for sample in digits.samples:
        if sample.audit is not None:
            expected[sample.sample_id, "audit" if sample.audit == "project" else "labels", str(sample.truth)] += 1
    assert said == expected

    noisy, clean = rows(snapshot.noisy_path), rows(snapshot.clean_path)
    assert {row["sample_id"] for row in noisy} == {i for i, sample in samples.items() if not sample.audited}
    assert {row["sample_id"] for row in clean} == {i for i, sample in samples.items() if sample.audited}
    assert len(noisy) + len(clean) == len(samples)
    for row in (*noisy, *clean):
        votes = samples[row["sample_id"]].votes  # of one or two annotators: where they differ, the last one counts
        assert sorted(vote["label"] for vote in row["votes"]) == sorted(vote.label for vote in votes)
        assert row.get("given_label", row["label"]) == votes[-1].label
    assert all(row["label"] == samples[row["sample_id"]].truth for row in clean)
    assert {row["provenance"] for row in clean} == {"audit"}


def test_every_image_is_kept_once_and_whole(first: Round, digits: DemoDataset) -> None:
    parts = sorted((first.snapshot.path.parent.parent / "images").glob("part-*.parquet"))
    assert all(pq.read_schema(part).remove_metadata().equals(IMAGES) for part in parts)
    kept = [row for part in parts for row in rows(part)]
    hashes = [row["image_sha256"] for row in kept]
    assert sorted(hashes) == sorted({hashlib.sha256(sample.image).hexdigest() for sample in digits.samples})
    assert all(hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["image_sha256"] for row in kept)


def test_the_scores_keep_their_contract(first: Round) -> None:
    path = first.folder / "scores.parquet"
    assert pq.read_schema(path).remove_metadata().equals(SCORES)
    scores = rows(path)
    given = {row["sample_id"]: row["label"] for row in rows(first.snapshot.noisy_path)}
    assert {row["sample_id"]: row["given_label"] for row in scores} == given
    for row in scores:
        here, best = (first.snapshot.classes.index(row[name]) for name in ("given_label", "model_label"))
        relabeled = best != here and row["model_label_probability"] >= RHO
        sure = 1 - row["error_probability"] >= TARGET_PRECISION
        assert row["decision"] == ("relabel" if relabeled else "keep" if sure else "low_confidence")
        handed_out = row["model_label"] if relabeled else row["given_label"]
        assert row["suggested_label"] == handed_out, "below ρ the label is the original one"
        assert sum(row["posterior"]) == pytest.approx(1, abs=1e-5)
        assert row["posterior"][best] == max(row["posterior"])
        assert row["error_probability"] == pytest.approx(1 - row["posterior"][here], abs=1e-5)
        assert row["model_version"] == "loop/1"
    counts = Counter(row["decision"] for row in scores)
    assert set(counts) == set(DECISIONS), "rounds that decide everything alike would prove nothing here"
    assert f"{counts['relabel']} relabeled, {counts['low_confidence']} low-confidence" in str(first.state.message)


def test_the_run_is_in_mlflow_with_all_that_made_it(first: Round, loop: "Loop", entered: Entered) -> None:
    [run] = first.runs
    assert run.info.status == "FINISHED"
    config = TrainConfig(epochs=EPOCHS, device="cpu").described()
    assert set(run.data.params) == {*config, *OF_THE_QUEUE, "folds", "holdout", "rho", "target_precision", "certainty"}
    assert run.data.params["preset.epochs"] == str(EPOCHS)
    assert run.data.params["preset.lr"] == str(config["preset.lr"])
    assert (run.data.params["rho"], run.data.params["target_precision"]) == (str(RHO), str(TARGET_PRECISION))
    assert len(loop.mlflow.get_metric_history(run.info.run_id, "loss")) == EPOCHS
    fitted = json.loads((first.folder / "fitted.json").read_bytes())
    assert run.data.metrics["held_out_accuracy"] == pytest.approx(fitted["accuracy"])
    assert run.data.metrics["rho"] == RHO
    relabels = fitted["relabels"]
    assert run.data.metrics["relabel_precision_expected"] == pytest.approx(relabels["expected_precision"])
    assert relabels["sentence"] in (first.folder / "report.md").read_text(encoding="utf-8")
    assert run.data.tags["fasten.snapshot_id"] == first.snapshot.snapshot_id
    assert run.data.tags["label_studio.project"] == str(entered.labels.project_id)
    assert run.data.tags["prefect.flow_run_id"] == str(first.state.state_details.flow_run_id)
    assert run.data.tags["mlflow.note.content"].startswith("# FasTEN on")
    there = {file.path for file in loop.mlflow.list_artifacts(run.info.run_id)}
    assert {"transition.json", "transition.png", "report.md", "confusion"} <= there
    confusion = {file.path for file in loop.mlflow.list_artifacts(run.info.run_id, "confusion")}
    assert confusion == {"confusion/held_out_audited.json", "confusion/held_out_audited.png"}
    assert run.inputs is not None
    [dataset] = run.inputs.dataset_inputs
    assert dataset.dataset.digest == first.snapshot.snapshot_id
    assert first.versions == {"1": ("challenger", "champion")}


def test_no_secret_reaches_mlflow_the_artifact_or_a_file(first: Round, loop: "Loop") -> None:
    token = loop.environment["FASTEN_LABEL_STUDIO_TOKEN"]
    assert token not in json.dumps([run.to_dictionary() for run in first.runs])
    root = loop.data_folder
    assert not [name for name in first.files if token.encode() in (root / name).read_bytes()]


def test_the_queue_holds_the_most_valuable_questions_in_their_order(
    first: Round, door: LabelStudio, entered: Entered
) -> None:
    questions = {question["sample_id"]: question for question in asked(first)}
    scores = {row["sample_id"]: row for row in rows(first.folder / "scores.parquet")}
    doubted = {sample for sample, row in scores.items() if row["decision"] != "keep"}
    assert {task.sample_id for task in first.queue} == set(questions)
    assert len(first.queue) == QUEUE_SIZE < len(doubted)
    kinds = Counter(task.data["asked_as"] for task in first.queue)
    assert kinds == {"audit": QUEUE_SIZE // 10, "targeted": QUEUE_SIZE - QUEUE_SIZE // 10}
    for task in first.queue:
        score, question = scores[task.sample_id], questions[task.sample_id]
        shown = task.data["asked_as"] == "targeted"
        assert not shown or task.sample_id in doubted
        assert task.data["push_key"] == push_key(entered.labels.project_id, task.sample_id)
        assert task.data["asked_by_run"] == first.completed.run_key
        assert task.data["current_label"] == (score["given_label"] if shown else "")
        assert task.data.get("model_label", "") == (score["model_label"] if shown else "")
        assert question["priority"] == pytest.approx(score["error_probability"], abs=1e-6), "mode suggest"
    headers = door.authorization()
    for task in first.queue[:: QUEUE_SIZE // 8]:
        raw = httpx.get(f"{door.url}/api/tasks/{task.task_id}/", headers=headers).raise_for_status().json()
        [prediction] = raw["predictions"]
        selected = [region["value"]["choices"] for region in prediction["result"]]
        assert selected == ([[task.data["model_label"]]] if task.data["asked_as"] == "targeted" else [])
        assert prediction["score"] == pytest.approx(questions[task.sample_id]["rank"], abs=1e-5)


def test_reviewers_are_served_the_most_valuable_question_first(first: Round, answers: Answers) -> None:
    questions = [question["sample_id"] for question in asked(first)]
    assert [answers.not_sure.sample_id, *answers.labels] == questions[: len(answers.samples)]


def test_the_round_leaves_an_artifact_in_prefect(first: Round, loop: "Loop") -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    of_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[first.state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        [artifact] = client.read_artifacts(artifact_filter=of_this_run)
    text = str(artifact.data)
    assert artifact.key == "fasten-report"
    assert "audited labels were wrong" in text
    assert str(first.state.message) in text
    assert f"{loop.environment['FASTEN_LABEL_STUDIO_URL']}/projects/{first.queue[0].project_id}/data?labeling=1" in text
    assert first.runs[0].info.run_id in text


# The second round: nothing new ---------------------------------------------------------------------------------------


def test_a_round_with_nothing_new_is_skipped_and_changes_nothing(first: Round, second: Round) -> None:
    assert (first.state.name, second.state.name) == ("Completed", "Skipped")
    assert second.state.is_completed()
    assert first.snapshot.snapshot_id in str(second.state.message)
    assert second.trained_on == []
    assert second.files == first.files
    assert second.queue == first.queue
    assert [run.info.run_id for run in second.runs] == [run.info.run_id for run in first.runs]
    assert second.versions == first.versions


# The third round: after two answers ----------------------------------------------------------------------------------


def test_a_review_comes_back_as_a_clean_label_and_not_sure_as_neither(
    first: Round, third: Round, answers: Answers
) -> None:
    assert third.state.name == "Completed"
    assert third.snapshot.manifest.parent == first.snapshot.snapshot_id
    new = {row["sample_id"]: row for row in rows(third.snapshot.clean_path) if row["sample_id"] in answers.samples}
    assert {sample: row["label"] for sample, row in new.items()} == answers.labels
    given = {row["sample_id"]: row["label"] for row in rows(first.snapshot.noisy_path)}
    assert all(row["given_label"] == given[sample] for sample, row in new.items())
    assert {sample for sample, row in new.items() if row["provenance"] == "audit"} == {answers.drawn.sample_id}
    assert ids(third.snapshot.noisy_path) == ids(first.snapshot.noisy_path) - answers.samples
    assert ids(third.snapshot.clean_path) == ids(first.snapshot.clean_path) | set(answers.labels)
    [unsure] = rows(third.snapshot.undecided_path)
    assert (unsure["sample_id"], unsure["state"]) == (answers.not_sure.sample_id, "not_sure")
    reviews = {row["sample_id"]: row for row in rows(third.snapshot.labels_path) if row["origin"] == "review"}
    assert set(reviews) == answers.samples
    assert {row["asked_by_run"] for row in reviews.values()} == {first.completed.run_key}
    assert reviews[answers.drawn.sample_id]["lead_time_s"] == 2.5
    assert reviews[answers.drawn.sample_id]["suggestion"] is None


def test_a_pull_without_new_images_writes_none(first: Round, third: Round) -> None:
    def images(files: set[str]) -> set[str]:
        return {name for name in files if "/images/" in name}

    assert images(third.files) == images(first.files)


def test_what_a_person_has_answered_is_not_asked_again(third: Round, answers: Answers) -> None:
    again = [question for question in asked(third) if question["sample_id"] in answers.samples]
    assert [(q["sample_id"], q["asked_as"]) for q in again] == [(answers.not_sure.sample_id, "tie_break")]
    keys = [task.data["push_key"] for task in third.queue]
    assert len(set(keys)) == len(keys) == QUEUE_SIZE + len(answers.samples), "as many were added as were answered"
    still_open = [task for task in third.queue if not task.annotations]
    assert len(still_open) == QUEUE_SIZE
    assert not set(answers.labels) & {task.sample_id for task in still_open}


def test_a_review_trains_but_never_estimates_and_a_random_one_does(
    first: Round, third: Round, answers: Answers
) -> None:
    [before], [after] = first.trained_on, third.trained_on
    assert bool(before.clean_estimates.all())
    assert int((~after.clean_estimates).sum()) == len(answers.labels) - 1
    fitted = [json.loads((run.folder / "fitted.json").read_bytes()) for run in (first, third)]
    estimating = [
        int(taught.clean_estimates.sum()) + known["held_out"]
        for taught, known in zip((before, after), fitted, strict=True)
    ]
    assert estimating[1] == estimating[0] + 1, "the one that was drawn at random, trained on or held out"
    assert fitted[1]["held_out"] - fitted[0]["held_out"] == is_held_out(answers.drawn.sample_id, 0.25)


def test_a_promise_allows_for_the_labels_that_reviews_have_changed(
    first: Round, third: Round, answers: Answers, loop: "Loop", entered: Entered
) -> None:
    decided = {row["sample_id"]: row for row in rows(third.snapshot.clean_path)}
    reviews = [row for row in decided.values() if row["provenance"] == "review"]
    changed = sum(row["label"] != row["given_label"] for row in reviews)
    known = [json.loads((run.folder / "fitted.json").read_bytes())["relabels"]["reviewed"] for run in (first, third)]
    assert known == [0, changed]
    assert changed > 0
    workspace = loop.workspace(entered.labels)
    runs = [run.run_key for run in reversed(trail.machine_runs(workspace))]
    with ImageStore(workspace.folder) as store:
        clean = load_clean(third.snapshot, store, size=8, runs=runs)
    assert clean.asked_in is not None
    numbers = dict(zip(clean.sample_ids, clean.asked_in.tolist(), strict=True))
    assert {numbers[sample_id] for sample_id in answers.labels} == {1}, "a review, or drawn for the first round"
    assert {numbers[sample_id] for sample_id in decided.keys() - answers.labels.keys()} == {0}


def test_everything_said_and_done_is_in_the_trail(
    first: Round, third: Round, answers: Answers, loop: "Loop", entered: Entered
) -> None:
    workspace = loop.workspace(entered.labels)
    assert {run.run_key for run in trail.machine_runs(workspace)} == {r.completed.run_key for r in (first, third)}
    said = [row for row in trail.people_rows(workspace) if row["origin"] == "review"]
    assert sorted(row["sample_id"] for row in said) == sorted(answers.samples), "each answer once"
    rows_asked = list(trail.asked_rows(workspace))
    asked_by = Counter(row["run_key"] for row in rows_asked if row["event"] == "add")
    assert asked_by == {first.completed.run_key: QUEUE_SIZE, third.completed.run_key: len(asked(third))}
    updated = {row["push_key"]: row for row in rows_asked if row["event"] == "update"}
    waiting = {task.data["push_key"]: task.data for task in third.queue}
    assert updated, "the third model knows more than the first"
    for key, row in updated.items():
        assert row["run_key"] == waiting[key]["asked_by_run"] == third.completed.run_key
        assert row["suggestion"] == waiting[key]["model_label"]


def test_a_better_model_challenges_and_the_champion_stays(first: Round, third: Round) -> None:
    assert third.versions == {"1": ("champion",), "2": ("challenger",)}
    assert len(third.runs) == 2
    assert load_model(third.folder / "model").metadata["snapshot_id"] == third.snapshot.snapshot_id
    assert first.folder != third.folder
