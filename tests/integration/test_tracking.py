"""The MLflow door against a real tracking server on SQLite, started as the embedded stack starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydantic import SecretStr

from fasten_model.model import Model, load_model, save_model
from fasten_model.network import build_network
from pipeline.errors import ConfigError, DataError, ServiceError, ServiceUnavailable
from pipeline.stack import health
from pipeline.tracking import Tracking, TrackingConfig

if TYPE_CHECKING:
    from tests.integration.conftest import MlflowServer

CLASSES = ("cat & <b>dog</b>", "$fish$", "bird")
TRANSITION = [[0.8, 0.1, 0.1], [0.0, 0.7, 0.3], [0.05, 0.05, 0.9]]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    save_model(
        Model(
            network=build_network("small", len(CLASSES)).eval(),
            classes=CLASSES,
            preset="small",
            image_size=16,
            temperature=1.5,
            transition=torch.tensor(TRANSITION),
            rho=0.8,
        ),
        folder,
    )
    return folder


@pytest.fixture(scope="session")
def png() -> bytes:
    import io

    from PIL import Image

    pixels = np.random.default_rng(5).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def artifacts(server: "MlflowServer", run_id: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for file in server.client.list_artifacts(run_id, path):
        found.update(artifacts(server, run_id, file.path) if file.is_dir else {file.path})
    return found


def test_check_tells_version_and_experiment(mlflow_server: "MlflowServer") -> None:
    tracking = mlflow_server.door("check")
    before = tracking.check()
    with tracking.start("key", tags={}):
        pass
    assert before.version[0] == "3"
    assert before.experiment_id is None
    after = tracking.check().experiment_id
    assert after is not None
    assert mlflow_server.client.get_experiment(after).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_whole_run_is_found_again_in_the_server(mlflow_server: "MlflowServer", model_dir: Path, png: bytes) -> None:
    tracking = mlflow_server.door("whole")
    with tracking.start("snap:1", tags={"prefect.flow_run_id": "f-1"}, name="digits") as run:
        run.log_params({"rho": 0.8, "epochs": None, "long": "x" * 9000})
        run.log_params({"token": SecretStr("hunter2"), "url": "https://me:hunter2@host/x"})
        for epoch in range(3):
            run.log_epoch({"loss": 1.0 / (epoch + 1), "accuracy": 0.5, "diverged": float("nan")}, epoch)
        run.log_transition(TRANSITION, CLASSES)
        run.log_confusion([[3, 1, 0], [0, 0, 0], [1, 0, 9]], CLASSES, "held_out_audited")
        run.log_dataset(Path("/data/snapshots/abc"), "sha256-of-a-snapshot-that-is-longer-than-36", {"noisy": 1200})
        run.log_report("# Round 1\n\n12 labels set right\n")
        version = run.register(model_dir, example_image=png)

    logged = mlflow_server.client.get_run(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "digits"
    assert logged.data.params == {
        "rho": "0.8", "epochs": "none", "long": "x" * 5999 + "…", "url": "https://host/x",
    }  # fmt: skip
    assert "hunter2" not in json.dumps(logged.to_dictionary())
    losses = mlflow_server.client.get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in losses] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert logged.data.tags["prefect.flow_run_id"] == "f-1"
    assert logged.data.tags["fasten.run_key"] == "snap:1"
    assert logged.data.tags["mlflow.note.content"].startswith("# Round 1")
    assert sorted(artifacts(mlflow_server, run.run_id)) == [
        "confusion/held_out_audited.json", "confusion/held_out_audited.png", "report.md",
        "transition.json", "transition.png",
    ]  # fmt: skip
    assert logged.inputs is not None
    dataset = logged.inputs.dataset_inputs[0].dataset
    assert dataset.digest == "sha256-of-a-snapshot-that-is-longer-than-36"[:36]
    assert json.loads(dataset.source)["uri"] == "/data/snapshots/abc"
    assert json.loads(dataset.profile or "") == {"noisy": 1200}
    assert (version.version, version.aliases, version.run_id) == ("1", ("challenger", "champion"), run.run_id)
    assert run.url == f"{mlflow_server.uri}/#/experiments/{logged.info.experiment_id}/runs/{run.run_id}"
    finished = tracking.find_finished("snap:1")
    assert finished is not None
    assert (finished.run_id, finished.url, finished.model) == (run.run_id, run.url, version)
    assert finished.metrics == {"loss": 1 / 3, "accuracy": 0.5}
    assert tracking.find_finished("snap:2") is None


def test_matrices_come_back_with_their_classes(mlflow_server: "MlflowServer", tmp_path: Path) -> None:
    with mlflow_server.door("matrices").start("key", tags={}) as run:
        run.log_transition(torch.tensor(TRANSITION), CLASSES)
    path = mlflow_server.client.download_artifacts(run.run_id, "transition.json", str(tmp_path))
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    assert document["classes"] == list(CLASSES)
    assert (document["rows"], document["columns"]) == ("true class", "given label")
    np.testing.assert_allclose(document["matrix"], TRANSITION, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        ([[0.5, 0.5, 0.0]] * 2, "shape"),
        ([[0.5, 0.1, 0.0]] * 3, "sum to 1"),
        ([[1.5, -0.5, 0.0]] * 3, "sum to 1"),
        ([[float("nan"), 0.0, 1.0]] * 3, "not finite"),
    ],
)
def test_a_matrix_that_is_no_transition_matrix_is_refused(
    mlflow_server: "MlflowServer", matrix: list[list[float]], complaint: str
) -> None:
    with (
        pytest.raises(DataError, match=complaint),
        mlflow_server.door("refused").start("key", tags={}) as run,
    ):
        run.log_transition(matrix, CLASSES)


def test_an_interrupted_run_is_taken_up_again_and_nothing_is_logged_twice(mlflow_server: "MlflowServer") -> None:
    tracking = mlflow_server.door("resume")
    with pytest.raises(RuntimeError), tracking.start("key", tags={"round": "1"}) as first:  # noqa: PT012
        first.log_params({"rho": 0.8, "device": "cpu"})
        first.log_epoch({"loss": 1.0}, 0)
        raise RuntimeError("token hunter2 was refused")
    failed = mlflow_server.client.get_run(first.run_id)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["fasten.failed_with"] == "RuntimeError"
    assert "hunter2" not in json.dumps(failed.to_dictionary())
    assert tracking.find_finished("key") is None

    with tracking.start("key", tags={"round": "2"}) as second:
        assert second.resumed
        assert mlflow_server.client.get_run(first.run_id).info.status == "RUNNING"
        second.log_params({"rho": 0.8, "device": "cuda", "seed": 1})
        second.log_epoch({"loss": 1.0}, 0)
        second.log_epoch({"loss": 0.5}, 1)
    assert second.run_id == first.run_id
    run = mlflow_server.client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"rho": "0.8", "device": "cpu", "seed": "1"}
    assert run.data.tags["fasten.changed_params"] == "device"
    assert run.data.tags["round"] == "2"
    assert "fasten.failed_with" not in run.data.tags
    history = mlflow_server.client.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5)]


def test_a_finished_run_is_not_taken_up_again(mlflow_server: "MlflowServer") -> None:
    tracking = mlflow_server.door("finished")
    with tracking.start("key", tags={}) as first:
        pass
    with tracking.start("key", tags={}) as second:
        pass
    assert not second.resumed
    assert second.run_id != first.run_id


def test_a_run_that_is_killed_says_so(mlflow_server: "MlflowServer") -> None:
    with pytest.raises(KeyboardInterrupt), mlflow_server.door("killed").start("key", tags={}) as run:
        raise KeyboardInterrupt
    assert mlflow_server.client.get_run(run.run_id).info.status == "KILLED"


def test_one_run_registers_one_version_and_the_champion_stays(
    mlflow_server: "MlflowServer", model_dir: Path, png: bytes
) -> None:
    tracking = mlflow_server.door("aliases")
    with tracking.start("one", tags={}) as first:
        assert first.register(model_dir, example_image=png) == first.register(model_dir, example_image=png)
    with tracking.start("two", tags={}) as second:
        newer = second.register(model_dir, example_image=png)
        # A run that is taken up late does not push the newer challenger back.
        older = first.register(model_dir, example_image=png)
    assert (newer.version, newer.aliases) == ("2", ("challenger",))
    assert (older.version, older.aliases) == ("1", ("champion",))
    assert tracking.find_model("challenger") == newer
    assert tracking.find_model("1") == older
    assert tracking.find_model("nobody") is None
    assert tracking.find_model("99") is None
    assert mlflow_server.door("no-such-model").find_model("champion") is None


def test_what_a_dead_attempt_uploaded_is_cleared_away(
    mlflow_server: "MlflowServer", model_dir: Path, png: bytes
) -> None:
    with mlflow_server.door("leftover").start("key", tags={}) as run:
        experiment = mlflow_server.client.get_run(run.run_id).info.experiment_id
        mlflow_server.client.create_logged_model(experiment, name="fasten", source_run_id=run.run_id)
        run.register(model_dir, example_image=png)
    assert len(mlflow_server.client.search_logged_models([experiment])) == 1


def test_a_model_that_cannot_label_is_never_registered(
    mlflow_server: "MlflowServer", model_dir: Path, tmp_path: Path
) -> None:
    tracking = mlflow_server.door("broken")
    with tracking.start("key", tags={}) as run:
        with pytest.raises(DataError, match=r"model\.safetensors is missing"):
            run.register(tmp_path, example_image=b"")
        with pytest.raises(DataError, match="does not label the example image"):
            run.register(model_dir, example_image=b"no image")
        (tmp_path / "model.json").write_bytes((model_dir / "model.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"not these weights")
        with pytest.raises(DataError, match="does not label the example image"):
            run.register(tmp_path, example_image=b"no image")
    assert tracking.find_model("challenger") is None
    assert (
        mlflow_server.client.search_logged_models([mlflow_server.client.get_run(run.run_id).info.experiment_id]) == []
    )


def test_a_downloaded_version_is_the_model_that_was_registered(
    mlflow_server: "MlflowServer", model_dir: Path, png: bytes, tmp_path: Path
) -> None:
    tracking = mlflow_server.door("download")
    with tracking.start("key", tags={}) as run:
        version = run.register(model_dir, example_image=png)
    folder = tracking.download_model(version, tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    torch.testing.assert_close(load_model(folder).predict_bytes([png]), load_model(model_dir).predict_bytes([png]))


CLEAN_PROCESS = """
import importlib.util, json, sys
sys.path[:] = [entry for entry in sys.path if entry != sys.argv[3]]
assert not [n for n in ("fasten_model", "pipeline", "flows") if importlib.util.find_spec(n)], "our packages are here"
import mlflow, pandas
image = open("image.png", "rb").read()
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
answer = model.predict(pandas.DataFrame({"image": [image, image]}))
assert not [n for n in sys.modules if n.split(".")[0] in ("pipeline", "flows", "prefect", "label_studio_sdk")]
json.dump(answer.to_dict("records"), sys.stdout)
"""


def test_the_model_loads_where_nothing_of_ours_is_installed(
    mlflow_server: "MlflowServer", model_dir: Path, png: bytes, tmp_path: Path
) -> None:
    with mlflow_server.door("served").start("key", tags={}) as run:
        version = run.register(model_dir, example_image=png)
    (tmp_path / "image.png").write_bytes(png)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    repository = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-P", "-c", CLEAN_PROCESS, mlflow_server.uri, "models:/served@challenger", repository],
        cwd=tmp_path,
        env=environment | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    expected = load_model(model_dir).predict_bytes([png])[0].tolist()
    assert len(answers) == 2
    assert list(answers[0]["probabilities"]) == list(CLASSES)
    assert list(answers[0]["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
    assert answers[0]["label"] == CLASSES[int(np.argmax(expected))]
    assert version.uri == "models:/served/1"


def test_the_stored_model_holds_no_pickle_and_no_path_of_this_machine(
    mlflow_server: "MlflowServer", model_dir: Path, png: bytes
) -> None:
    with mlflow_server.door("stored").start("key", tags={}) as run:
        version = run.register(model_dir, example_image=png)
    source = mlflow_server.client.get_model_version_download_uri("stored", version.version)
    stored = mlflow_server.folder / "artifacts" / source.removeprefix("mlflow-artifacts:/")
    assert (stored / "artifacts" / "model.safetensors").is_file()
    files = [path for path in stored.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {"", ".py", ".typed", ".json", ".yaml", ".txt", ".safetensors"}
    description = (stored / "MLmodel").read_text()
    assert run.run_id in description
    assert str(model_dir) not in description
    assert str(Path(__file__).parents[2]) not in description


def test_a_deleted_experiment_is_told_with_the_way_out(mlflow_server: "MlflowServer") -> None:
    tracking = mlflow_server.door("deleted")
    with tracking.start("key", tags={}):
        pass
    identity = tracking.check().experiment_id
    assert identity is not None
    mlflow_server.client.delete_experiment(identity)
    with pytest.raises(ServiceError, match=f"experiments restore -x {identity}"):
        tracking.start("key", tags={})


def test_a_run_key_that_would_break_the_search_is_refused(mlflow_server: "MlflowServer") -> None:
    with pytest.raises(ConfigError, match="run key"):
        mlflow_server.door("key").find_finished("x' OR '1'='1")


def test_a_dead_server_is_one_line_and_worth_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{health.free_port()}"
    with pytest.raises(ServiceUnavailable, match="connection refused") as caught:
        Tracking(TrackingConfig(uri=uri)).check()
    assert "\n" not in str(caught.value)
    assert uri in str(caught.value)
    assert "FASTEN_MLFLOW_TRACKING_URI" in str(caught.value)
