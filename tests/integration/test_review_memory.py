"""The trail against the real servers: what people said is kept, what a machine wrote or asked can be taken back."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from pydantic import SecretStr
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.corrected import corrected_rows
from pipeline.errors import ConfigError
from pipeline.export import machine_users, write_as_user, write_dataset, write_project
from pipeline.images import ImageConfig, Images
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.label_studio.machine_user import MachineUser
from pipeline.queue import push, push_key
from pipeline.records import NOT_SURE, Project, ReviewTask
from pipeline.review_screen import review_config
from pipeline.schema import SCORES
from pipeline.snapshot import Snapshot
from pipeline.snapshot.pull import pull
from pipeline.tracking import Tracking, TrackingConfig
from pipeline.trail import append_asked, append_machine, keep_people, people_rows, withdrawn_rows
from pipeline.trail.story import story, today
from pipeline.trail.undo import find_run, undo_run
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tests.integration.conftest import LabelStudioServer, MlflowServer

CLASSES = ("dark", "grey", "light")
SAMPLES = tuple(f"s{number}" for number in range(6))
CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image">
<Choice value="dark"/><Choice value="grey"/><Choice value="light"/></Choices></View>"""
FITTED: Mapping[str, Any] = {"relabels": {"rho": 0.8}, "transition": [[0.8, 0.1, 0.1]] * 3}


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A labels project of six squares, its review project, and a workspace."""

    door: LabelStudio
    config: LabelStudioConfig
    labels: Project
    review: Project
    workspace: Workspace

    def pulled(self) -> Snapshot:
        """What a round does first."""
        keep_people(self.workspace, datetime.now(UTC))
        with Images(
            ImageConfig(), root=self.workspace.folder, base_url=self.door.url, authorization=self.door.authorization
        ) as images:
            found = pull(
                self.door, images, labels=self.labels, review=self.review, data_dir=self.workspace.folder,
                ignore=machine_users(self.workspace),
            )  # fmt: skip
        keep_people(self.workspace, datetime.now(UTC))
        return found.snapshot

    def run(self, snapshot: Snapshot, key: str, says: Mapping[str, str]) -> None:
        """What a round does of it: change the labels of the samples in `says`, and ask about them and one more."""
        noisy = pq.read_table(snapshot.noisy_path).to_pylist()
        scores = [_score(row, says.get(row["sample_id"], row["label"])) for row in noisy]
        append_machine(
            self.workspace, key, snapshot, pa.Table.from_pylist(scores, schema=SCORES), FITTED,
            mode="auto", mlflow_run_id=f"mlflow-{key}", at=datetime.now(UTC),
        )  # fmt: skip
        tasks = [self._question(row, score, key) for row, score in zip(noisy, scores, strict=True)]
        push(self.door, self.review, tasks)
        append_asked(self.workspace, key, tasks, datetime.now(UTC))

    def _question(self, row: Mapping[str, Any], score: Mapping[str, Any], key: str) -> ReviewTask:
        return ReviewTask(
            push_key=push_key(self.labels.project_id, row["sample_id"]), sample_id=row["sample_id"],
            image_url=row["image_url"], current_label=row["label"], model_label=score["model_label"], confidence=0.9,
            reason="The model doubts it.", priority=0.5, model_version="fasten/1", run_key=key,
        )  # fmt: skip

    def handed_out(self, snapshot: Snapshot) -> dict[str, tuple[str, str]]:
        rows = corrected_rows(self.workspace, snapshot, mode="auto")
        return {row["sample_id"]: (row["label"], row["source"]) for row in rows}

    def annotations(self) -> dict[str, list[tuple[str, str | None, bool]]]:
        return {
            task.sample_id: sorted((one.annotator, one.label, one.ground_truth) for one in task.annotations)
            for task in self.door.iter_tasks(self.labels)
        }


def _score(row: Mapping[str, Any], label: str) -> dict[str, Any]:
    changed = label != row["label"]
    return {
        "sample_id": row["sample_id"],
        "given_label": row["label"],
        "suggested_label": label,
        "model_label": label,
        "model_label_probability": 0.9,
        "confidence": 0.9,
        "given_label_probability": 0.05 if changed else 0.9,
        "error_probability": 0.95 if changed else 0.1,
        "posterior": [0.9 if name == label else 0.05 for name in CLASSES],
        "decision": "relabel" if changed else "keep",
        "priority": 0.1,
        "model_version": "fasten/1",
    }


@pytest.fixture
def loop(door: LabelStudio, label_studio: "LabelStudioServer", tmp_path: Path, request: pytest.FixtureRequest) -> Loop:
    """Squares labelled dark, grey and light in turn by one annotator."""
    name = request.node.name
    labels = door.create_project(f"memory {name}"[:50], CONFIG)
    review = door.create_project(f"memory review {name}"[:50], review_config(CLASSES), uncertainty_sampling=True)
    annotator = door.add_user("memory-annotator@fasten.local", "they-all-share-it")
    files = {}
    for number, sample in enumerate(SAMPLES):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(buffer, "PNG")
        files[f"{sample}.png"] = buffer.getvalue()
    urls = door.upload_images(labels.project_id, files)
    door.import_tasks(
        labels.project_id,
        [
            {
                "data": {"image": urls[f"{sample}.png"], "sample_id": sample},
                "annotations": [_annotation(CLASSES[number % 3], annotator.user_id)],
            }
            for number, sample in enumerate(SAMPLES)
        ],
    )
    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token))
    workspace = Workspace(folder=tmp_path / "data" / f"project-{labels.project_id}")
    return Loop(door=door, config=config, labels=labels, review=review, workspace=workspace)


def _annotation(label: str, user: int) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"result": [region], "completed_by": user, "ground_truth": False}


def test_a_reverted_run_takes_back_its_questions_and_relabels_and_no_answer(loop: Loop) -> None:
    snapshot = loop.pulled()
    loop.run(snapshot, "first-run", {"s0": "light", "s1": "dark"})
    assert loop.handed_out(snapshot)["s0"] == ("light", "model")
    token = loop.door.add_user("memory-reviewer@fasten.local", "they-all-share-it").token
    with LabelStudio(LabelStudioConfig(url=loop.config.url, token=token)) as reviewer:
        tasks = {task.sample_id: task for task in loop.door.iter_tasks(loop.review)}
        reviewer.submit(loop.review, tasks["s1"], label="light", lead_time_s=4.5)
        reviewer.submit(loop.review, tasks["s2"], verdict=NOT_SURE, lead_time_s=2.0)
    reviewed = loop.pulled()
    expected = {"s0": ("light", "model"), "s1": ("light", "review"), "s2": ("light", "original")}
    assert {name: loop.handed_out(reviewed)[name] for name in expected} == expected

    def undo(*, dry_run: bool = False) -> tuple[int, int, int]:
        done = undo_run(
            loop.workspace, find_run(loop.workspace, "mlflow-first-run"), door=loop.door, review=loop.review,
            registry=None, by="ada", at=datetime.now(UTC), dry_run=dry_run,
        )  # fmt: skip
        return done.relabels, done.withdrawn, done.answered

    assert undo(dry_run=True) == (2, 4, 2)
    assert undo() == (2, 4, 2)
    assert undo() == (0, 0, 2)
    asked = {each.sample_id: each for each in loop.door.asked(loop.review)}
    assert {name for name, each in asked.items() if each.retired and not each.waiting} == {"s0", "s3", "s4", "s5"}
    assert len(asked) == 6, "who has one open may still answer it"
    assert sorted(row["sample_id"] for row in withdrawn_rows(loop.workspace)) == ["s0", "s3", "s4", "s5"]
    after = loop.pulled()
    assert loop.handed_out(after) == loop.handed_out(reviewed) | {"s0": ("dark", "original")}

    told = [event.what for event in story(loop.workspace, "s1")]
    assert told[0].startswith("answered “grey”")
    assert told[1].startswith("changed “grey” to “dark”: q “dark” 90%")
    assert told[2:] == [
        "asked people (targeted, “dark” suggested): The model doubts it.",
        "answered “light” in 4.5 s (review project, asked as targeted): chose another class",
        "reverted run first-run: what it decided counts no longer",
    ]
    assert today(loop.workspace, after, "s1", mode="auto").label == "light"

    # Somebody deletes that answer in Label Studio: the trail keeps it.
    deleted = next(row for row in people_rows(loop.workspace, "s1") if row["origin"] == "review")
    loop.door._connection.delete(f"/api/annotations/{deleted['annotation_id']}/", what="deleting an answer")
    loop.pulled()
    [said, gone] = [row for row in people_rows(loop.workspace, "s1") if row["origin"] == "review"]
    assert (said["label"], said["withdrawn_at"]) == ("light", None)
    assert gone["label"] == "light"
    assert gone["withdrawn_at"] is not None


def test_a_machines_annotations_are_nobodys_votes_and_follow_its_relabels(loop: Loop) -> None:
    before = loop.annotations()
    snapshot = loop.pulled()
    loop.run(snapshot, "first-run", {"s0": "light", "s1": "dark"})
    machine_id = loop.door.add_user("memory-machine@fasten.local", "they-all-share-it").user_id
    with MachineUser(loop.config, "Memory-Machine@fasten.local") as machine:
        assert machine.annotator == f"user:{machine_id}"
        written = [write_as_user(loop.door, machine, loop.labels, loop.workspace, snapshot) for _ in range(2)]
        assert [(one.added, one.there, one.removed) for one in written] == [(2, 0, 0), (0, 2, 0)]
        [task] = [task for task in loop.door.iter_tasks(loop.labels) if task.sample_id == "s0"]
        machine.annotate(loop.labels, task, "light")  # as if the look-up had come too early
        assert loop.annotations() == {
            sample: sorted(said + [(machine.annotator, label, False)] * (label is not None))
            for sample, said in before.items()
            for label in [{"s0": "light", "s1": "dark"}.get(sample)]
        }
        assert loop.pulled().snapshot_id == snapshot.snapshot_id, "what the machine says is no news"
        loop.run(snapshot, "second-run", {"s0": "grey"})
        written = [write_as_user(loop.door, machine, loop.labels, loop.workspace, snapshot) for _ in range(2)]
        assert [(one.added, one.there, one.removed) for one in written] == [(1, 0, 2), (0, 1, 0)]
    with (
        MachineUser(loop.config, "memory-annotator@fasten.local") as person,
        pytest.raises(ConfigError, match="has answered as a person"),
    ):
        write_as_user(loop.door, person, loop.labels, loop.workspace, snapshot)
    with pytest.raises(ConfigError, match="has no user nobody@fasten"):
        MachineUser(loop.config, "nobody@fasten.local")


def test_corrected_labels_leave_as_files_and_as_a_project_once(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = loop.pulled()
    loop.run(snapshot, "first-run", {"s0": "light"})
    exported, _ = write_dataset(tmp_path / "out", loop.workspace, snapshot, mode="auto")
    assert exported.by_source == {"model": 1, "original": 5}
    title = f"corrected {loop.labels.project_id}"
    for added in (6, 0):
        written = write_project(loop.door, title, loop.labels, loop.workspace, snapshot, mode="auto")
        assert (written.added, written.different) == (added, 0)
    tasks = list(loop.door.iter_tasks(loop.door.find_project(title)))
    found = {task.sample_id: [one.label for one in task.annotations] for task in tasks}
    assert found == {name: [label] for name, (label, _) in loop.handed_out(snapshot).items()}
    assert not any(one.ground_truth for task in tasks for one in task.annotations)
    with pytest.raises(ConfigError, match="no export of these labels"):
        write_project(loop.door, loop.review.title, loop.labels, loop.workspace, snapshot, mode="auto")

    for name in [name for name in os.environ if name.startswith("FASTEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTEN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FASTEN_LABELS_PROJECT", str(loop.labels.project_id))
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", loop.config.url)
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TOKEN", loop.config.token.get_secret_value())
    loop.door.add_user("memory-exporter@fasten.local", "they-all-share-it")
    options = ["--mode", "auto", "--out", "out", "--to-project", title, "--as-user", "memory-exporter@fasten.local"]
    done = CliRunner().invoke(app, ["export", *options])
    assert done.stdout.splitlines() == [
        "6 labels in out, as they were",
        "  model    1",
        "  original 5",
        f"0 labels added to “{title}”, 6 were there",
        "1 annotations added as memory-exporter@fasten.local, 0 were there, 0 removed",
    ]
    again = CliRunner().invoke(app, ["export", *options, "--dry-run"])
    assert again.stdout.splitlines() == [
        "6 labels would be written to out",
        f"0 labels would be added to “{title}”, 6 were there",
        "0 annotations would be added as memory-exporter@fasten.local, 1 were there, 0 removed",
    ]


@pytest.fixture
def registry(mlflow_server: "MlflowServer", request: pytest.FixtureRequest) -> tuple[Tracking, MlflowClient, str]:
    """A model of three versions, the last of which is champion and challenger."""
    name = str(request.node.name)
    client = mlflow_server.client
    client.create_registered_model(name)
    run = client.create_run(client.create_experiment(name))
    for _ in range(3):
        client.create_model_version(name, source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    for alias in ("champion", "challenger"):
        client.set_registered_model_alias(name, alias, "3")
    return Tracking(TrackingConfig(uri=mlflow_server.uri, experiment=name, model_name=name)), client, name


def test_the_champion_goes_back_to_the_newest_version_that_nobody_reverted(
    registry: tuple[Tracking, MlflowClient, str],
) -> None:
    tracking, client, name = registry

    def aliases() -> dict[str, str]:
        return {
            alias: str(client.get_model_version_by_alias(name, alias).version) for alias in ("champion", "challenger")
        }

    both = {"champion": "1", "challenger": "1"}
    assert tracking.step_back("2", reverted={"2"}) == {}, "no alias is at version 2"
    assert tracking.step_back("3", reverted={"2", "3"}, dry_run=True) == both
    assert aliases() == {"champion": "3", "challenger": "3"}
    assert tracking.step_back("3", reverted={"2", "3"}) == both
    assert aliases() == both
    assert tracking.step_back("3", reverted={"2", "3"}) == {}
    assert tracking.step_back("1", reverted={"1", "2", "3"}) == {}, "there is none before it: it stays"
    assert aliases() == both


def test_the_champion_never_goes_back_to_a_version_of_another_labels_project(
    registry: tuple[Tracking, MlflowClient, str],
) -> None:
    tracking, client, name = registry
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    for project in ("7", "8", "7"):
        tags = {"label_studio.url": "http://ls.test", "label_studio.project": project}
        run = client.create_run(experiment.experiment_id, tags=tags)
        client.create_model_version(name, source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    client.set_registered_model_alias(name, "champion", "6")
    assert tracking.step_back("6", reverted={"6"}, dry_run=True) == {"champion": "4"}, "5 knows other classes"
    assert tracking.step_back("6", reverted={"4", "6"}) == {}, "those of before are nobody's that is known"
    assert client.get_model_version_by_alias(name, "champion").version in (6, "6")
