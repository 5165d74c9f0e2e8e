"""A round that dies is run again: nothing is lost, done twice, or asked twice, wherever it died."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fasten_model import fitting
from fasten_model.model import JSON_FILE, VISITS_FILE, WEIGHTS_FILE
from fasten_model.train import Trained, TrainingSet, train
from pipeline import queue
from pipeline.demo.enter import Entered
from pipeline.errors import ServiceUnavailable
from pipeline.label_studio import LabelStudio
from pipeline.loop import model as model_stage
from pipeline.queue import PushReport, push
from pipeline.snapshot.writer import SnapshotWriter
from pipeline.tracking import TrainingRun
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tests.integration.conftest import Loop, NewLoop

QUEUE_SIZE = 40
AWAY = "have not appeared after a lost answer"

Death = Callable[[pytest.MonkeyPatch], None]
"""Sees to it that the next round dies."""


class PowerCut(Exception):
    """Nothing in the product knows this one."""


def instead(*_args: Any, **_kwargs: Any) -> Any:
    raise PowerCut


def after(real: Callable[..., Any]) -> Callable[..., Any]:
    def dies(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        raise PowerCut

    return dies


def halfway(door: Any, project: Any, tasks: Any, **options: Any) -> PushReport:
    push(door, project, tasks, **options | {"limit": QUEUE_SIZE // 3})
    raise PowerCut


def dying(owner: Any, name: str, how: Callable[..., Any]) -> Death:
    return lambda patch: patch.setattr(owner, name, how)


def after_step(name: str) -> Death:
    def death(patch: pytest.MonkeyPatch) -> None:
        from flows import retrain

        patch.setattr(retrain, name, retrain.step(name)(after(getattr(retrain, name).fn)))

    return death


def label_studio_away(patch: pytest.MonkeyPatch) -> None:
    """Beyond all retries, which take no time here."""
    from flows import retrain

    def away(*_: Any) -> int:
        raise ServiceUnavailable("no answer")

    patch.setattr(LabelStudio, "import_tasks", away)
    patch.setattr(queue, "SETTLE_PAUSES_S", ())
    patch.setattr(retrain, "push", retrain.push.with_options(retry_delay_seconds=0))


DEATHS: dict[str, Death] = {
    "after the survey": after_step("survey"),
    "with the images fetched and no snapshot": dying(SnapshotWriter, "finish", instead),
    "after the pull": after_step("pull"),
    "with the model saved and not described": dying(model_stage, "write_whole", instead),
    "before the model is registered": dying(TrainingRun, "register", instead),
    "with the model registered and the run not ended": dying(TrainingRun, "register", after(TrainingRun.register)),
    "after the training": after_step("train"),
    "after the scores": after_step("score"),
    "after triage": after_step("triage"),
    "with an empty review project": dying(queue, "push", instead),
    "while Label Studio is away": label_studio_away,
    "with the queue filled in part": dying(queue, "push", halfway),
    "after the push": after_step("push"),
    "with the report written and not remembered": dying(Workspace, "remember", instead),
}
"""In the order of a round. Each must come as far as its own death, and so takes up what the one before it left."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainingSet]:
    """What every finished training of this process was given."""
    done: list[TrainingSet] = []

    def noted(training_set: TrainingSet, *args: Any, **kwargs: Any) -> Trained:
        result = train(training_set, *args, **kwargs)
        done.append(training_set)
        return result

    monkeypatch.setattr(fitting, "train", noted)
    return done


def make(new_loop: "NewLoop", name: str, entered: Entered) -> "Loop":
    projects = {"LABELS_PROJECT": str(entered.labels.project_id), "AUDIT_PROJECT": str(entered.audit.project_id)}
    return new_loop(name, QUEUE_SIZE=str(QUEUE_SIZE), **projects)


def model_files(loop: "Loop") -> dict[Path, tuple[int, int]]:
    """Every file of every trained model, with what changes when it is written anew."""
    models = (path for path in loop.data_folder.glob("*/runs/*/model/*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in models}


def check_done_once(loop: "Loop", door: LabelStudio) -> None:
    [run] = loop.runs()
    assert run.info.status == "FINISHED"
    assert loop.versions() == {"1": ("challenger", "champion")}
    [snapshots] = loop.data_folder.glob("*/snapshots")
    assert len(list(snapshots.iterdir())) == 1
    keys = [task.data["push_key"] for task in loop.queue(door)]  # of the one project with that title
    assert len(set(keys)) == len(keys) == QUEUE_SIZE
    assert not [name for name in loop.files() if "staged" in name or "staging" in name]


def test_a_round_that_dies_anywhere_is_finished_by_the_next(
    new_loop: "NewLoop", entered: Entered, door: LabelStudio, trained: list[TrainingSet]
) -> None:
    loop = make(new_loop, "deaths", entered)
    models: dict[Path, tuple[int, int]] = {}
    for moment, death in DEATHS.items():
        with pytest.MonkeyPatch.context() as patch:
            death(patch)
            state = loop.run()
        assert state.is_failed(), moment
        expected = AWAY if death is label_studio_away else PowerCut.__name__
        assert expected in str(state.message), f"died {moment}, but of {state.message}"
        if moment == "before the model is registered":
            models = model_files(loop)
    assert {path.name for path in models} == {JSON_FILE, VISITS_FILE, WEIGHTS_FILE}
    assert len(models) == 3
    state = loop.run()
    assert state.name == "Completed", state.message
    assert f"0 added to the queue, {QUEUE_SIZE} waiting" in str(state.message)
    assert model_files(loop) == models
    assert len(trained) == 2, "once, and once more for the model that was left without its description"
    check_done_once(loop, door)
    assert loop.run().name == "Skipped"


KILLED = """
import os
from pipeline import loop
from pipeline.settings import load_settings
from pipeline.tracking import TrainingRun

register = TrainingRun.register

def register_and_die(*args, **kwargs):
    register(*args, **kwargs)
    os._exit(9)

TrainingRun.register = register_and_die
settings = load_settings()
loop.train_model(settings, loop.pull_labels(settings, loop.survey(settings)))
"""


def test_a_process_that_was_killed_after_training_is_taken_up_and_trains_no_second_time(
    new_loop: "NewLoop", entered: Entered, door: LabelStudio, trained: list[TrainingSet]
) -> None:
    loop = make(new_loop, "killed", entered)
    with loop.configured():
        killed = subprocess.run(
            [sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=200, check=False
        )
    assert killed.returncode == 9, killed.stderr
    [left] = loop.runs()
    assert left.info.status == "RUNNING", "nobody was there to end it"
    models = model_files(loop)
    assert {path.name for path in models} == {JSON_FILE, VISITS_FILE, WEIGHTS_FILE}
    assert len(models) == 3
    state = loop.run()
    assert state.name == "Completed", state.message
    assert trained == []
    assert model_files(loop) == models
    check_done_once(loop, door)
