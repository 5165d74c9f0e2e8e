"""The flow's own part: the order of the steps, how a round ends, and what is tried again. The stages are stand-ins."""

import errno
import importlib
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows import retrain
from pipeline.errors import ConfigError, DataError, ServiceUnavailable
from pipeline.loop import Summary

pytestmark = pytest.mark.usefixtures("prefect_server")


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What survey and pull tell the flow."""

    name: str
    nothing_new: str = ""


SUMMARY = Summary(headline="3 labels scored", markdown="# Three labels\n")
STEPS = ("survey", "pull", "train", "score", "triage", "push", "report")
RESULTS: dict[str, Any] = {"survey": News(name="found"), "pull": News(name="pulled"), "report": SUMMARY}


class Stages:
    """Seven stand-ins that note how they were called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._patch = patch
        for name in STEPS:
            self.put(name, partial(RESULTS.get, name, name))

    def put(self, name: str, does: Callable[[], Any]) -> None:
        def stage(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self.arguments[name] = args, kwargs
            return does()

        task = retrain.step(name)(stage).with_options(retry_delay_seconds=0)
        self._patch.setattr(retrain, name, task)

    def fail(self, name: str, error: Exception, *, times: int = 1000) -> None:
        def does() -> Any:
            if self.calls.count(name) <= times:
                raise error
            return RESULTS.get(name, name)

        self.put(name, does)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stages:
    monkeypatch.setenv("FASTEN_HOME", str(tmp_path))
    monkeypatch.setenv("FASTEN_PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.delenv("FASTEN_WATCH_PARENT", raising=False)
    monkeypatch.chdir(tmp_path)
    return Stages(monkeypatch)


def test_a_round_takes_every_step_in_order_and_hands_its_result_on(stages: Stages) -> None:
    state = retrain.fasten(labels_project="7", return_state=True)
    assert (state.name, state.message) == ("Completed", "3 labels scored")
    assert stages.calls == list(STEPS)
    found, pulled = RESULTS["survey"], RESULTS["pull"]
    settings = stages.arguments["survey"][0][0]
    assert settings.labels_project == "7"
    run_id = str(state.state_details.flow_run_id)
    page = f"http://127.0.0.1:1/runs/flow-run/{run_id}"
    assert stages.arguments == {
        "survey": ((settings,), {}),
        "pull": ((settings, found), {}),
        "train": ((settings, pulled), {"prefect_run_id": run_id}),
        "score": ((settings, pulled, "train"), {}),
        "triage": ((settings, found, pulled, "score"), {}),
        "push": ((settings, found, "triage"), {}),
        "report": ((settings, pulled, "train", "score", "push"), {"prefect_url": page}),
    }
    of_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        [artifact] = client.read_artifacts(artifact_filter=of_this_run)
    assert (artifact.key, artifact.data) == ("fasten-report", SUMMARY.markdown)


@pytest.mark.parametrize(("tells", "taken"), [("survey", ["survey"]), ("pull", ["survey", "pull"])])
def test_a_round_with_nothing_new_is_skipped(stages: Stages, tells: str, taken: list[str]) -> None:
    stages.put(tells, lambda: News(name=tells, nothing_new="as in snapshot abc"))
    state = retrain.fasten(return_state=True)
    assert state.is_completed()
    assert (state.name, state.message) == ("Skipped", "as in snapshot abc")
    assert stages.calls == taken


def test_force_does_everything_although_nothing_is_new(stages: Stages) -> None:
    for name in ("survey", "pull"):
        stages.put(name, lambda: News(name="old", nothing_new="as before"))
    assert retrain.fasten(force=True, return_state=True).name == "Completed"
    assert stages.calls == list(STEPS)


def test_a_full_disk_ends_the_round_in_one_line(stages: Stages) -> None:
    stages.fail("pull", OSError(errno.ENOSPC, "No space left on device", "/data/noisy.parquet"))
    state = retrain.fasten(return_state=True)
    assert state.is_failed()
    assert state.message == "/data/noisy.parquet: No space left on device; make room, and run it again"


def test_what_a_user_can_mend_ends_the_round_at_once_with_its_one_line(
    stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    stages.fail("train", DataError("the clean set is empty: audit some tasks"))
    state = retrain.fasten(return_state=True)
    assert state.is_failed()
    assert state.message == "the clean set is empty: audit some tasks"
    assert stages.calls == ["survey", "pull", "train"], "neither tried again nor passed over"
    lines = [record.getMessage() for record in caplog.records if record.name == "pipeline.flow"]
    assert lines == [state.message]


def test_a_wrong_setting_ends_the_round_before_its_first_step(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_RHO", "high")
    state = retrain.fasten(return_state=True)
    assert state.is_failed()
    assert "FASTEN_RHO" in str(state.message)
    assert stages.calls == []


def test_a_service_that_comes_back_is_asked_again(stages: Stages) -> None:
    stages.fail("push", ServiceUnavailable("no answer"), times=3)
    assert retrain.fasten(return_state=True).name == "Completed"
    assert stages.calls == [*STEPS[:5], *["push"] * 4, "report"], "what was done before is not done again"


class Tracebacks(logging.Handler):
    """Keeps the records that would show one."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0]:
            self.records.append(record)


def test_a_service_that_stays_away_ends_the_round_with_its_one_line(stages: Stages) -> None:
    stages.fail("survey", ServiceUnavailable("Label Studio cannot be reached; is it running?"))
    tracebacks = Tracebacks()
    logger = logging.getLogger("prefect.task_runs")
    logger.addHandler(tracebacks)
    try:
        state = retrain.fasten(return_state=True)
    finally:
        logger.removeHandler(tracebacks)
    assert state.is_failed()
    assert state.message == "Label Studio cannot be reached; is it running?"
    assert stages.calls == ["survey"] * 4
    assert not tracebacks.records


@pytest.mark.parametrize("error", [ConfigError("wrong"), ZeroDivisionError("a bug")])
def test_nothing_else_is_tried_again(stages: Stages, error: Exception) -> None:
    stages.fail("score", error)
    state = retrain.fasten(return_state=True)
    assert state.is_failed()
    assert str(error) in str(state.message)
    assert stages.calls.count("score") == 1


def test_retries_wait_longer_each_time_and_not_all_at_once() -> None:
    for name in STEPS:
        task = getattr(retrain, name)
        assert task.name == name
        assert task.retries == 3
        delays = task.retry_delay_seconds
        assert delays == sorted(set(delays))
        assert len(delays) == task.retries
        assert task.retry_jitter_factor
        assert not task.persist_result


@pytest.mark.parametrize(("value", "watched"), [("1", 1), ("0", 0), (None, 0)])
def test_only_a_run_that_a_worker_started_watches_its_parent(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, value: str | None, watched: int
) -> None:
    watches: list[None] = []
    monkeypatch.setattr(retrain, "watch_parent", lambda: watches.append(None))
    if value is not None:
        monkeypatch.setenv("FASTEN_WATCH_PARENT", value)
    stages.put("survey", lambda: News(name="found", nothing_new="as before"))
    retrain.fasten(return_state=True)
    assert len(watches) == watched


def test_a_round_with_nothing_new_needs_neither_torch_nor_mlflow() -> None:
    code = "import sys, flows.retrain; print([name for name in ('torch', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_takes_long_to_import_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stages before it need neither, and the log would stand still for half a minute."""
    stage = ModuleType("pipeline.loop.model")
    stage.train_model = lambda: "trained"  # type: ignore[attr-defined]

    def loaded(name: str) -> ModuleType:
        monkeypatch.setitem(sys.modules, name, stage)
        return stage

    monkeypatch.delitem(sys.modules, stage.__name__, raising=False)
    monkeypatch.setattr(importlib, "import_module", loaded)
    caplog.set_level("INFO", "pipeline.loop")
    assert [retrain.later("train_model")(), retrain.later("train_model")()] == ["trained", "trained"]
    assert caplog.messages == ["loading PyTorch and MLflow"]
