"""`python -m fasten_model.train` as it is used: killed, stopped, in several processes, and on input that it refuses."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fasten_model import fit_files as fit_files_module
from fasten_model.model import load_model
from fasten_model.train import EpochMetrics
from fasten_model.train.command import main

CLASSES = ("dark", "grey", "bright")
OPTIONS = ("--epochs", "3", "--noisy-batch", "16", "--clean-batch", "6", "--image-size", "12", "--device", "cpu")


def rows(path: Path, name: str, count: int, *, wrong_every: int = 0) -> Path:
    """A Parquet file of `count` noisy squares of three shades."""
    numbers = np.random.default_rng(count)
    images, labels = [], []
    for i in range(count):
        buffer = io.BytesIO()
        shade = 40 + 85 * (i % 3) + numbers.integers(-35, 36, size=(8, 8))
        Image.fromarray(shade.astype(np.uint8)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
        labels.append(CLASSES[(i + (wrong_every > 0 and i % wrong_every == 0)) % 3])
    columns = {"sample_id": [f"{name}-{i}" for i in range(count)], "image": images, "label": labels}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    clean, noisy = (
        rows(folder / "clean.parquet", "audited", 24),
        rows(folder / "noisy.parquet", "bulk", 44, wrong_every=5),
    )
    return ["--clean", str(clean), "--noisy", str(noisy), *OPTIONS]


@pytest.fixture(scope="module")
def undisturbed(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    assert main([*files, "--out", str(out)]) == 0
    return out


KILLED = """
import os, signal, sys, warnings
warnings.simplefilter("error")
from fasten_model.train import command, resume

where, step = sys.argv[1], int(sys.argv[2])
steps = 0
save = resume.Keeper.after_step

def after_step(self, *arguments, **named):
    global steps
    steps += 1
    if where == "before" and steps == step:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, *arguments, **named)
    if where == "after" and steps == step:
        os.kill(os.getpid(), signal.SIGKILL)

resume.Keeper.after_step = after_step
sys.exit(command.main(sys.argv[3:]))
"""


def environment() -> dict[str, str]:
    threads = str(torch.get_num_threads())
    root = str(Path(__file__).parents[3])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def outcome(model: Path) -> dict[str, Any]:
    """What a training leaves, but for the seconds that it took."""
    known = json.loads((model / "fitted.json").read_text())
    for epoch in known["history"]:
        del epoch["seconds"]
    return {
        "files": sorted(path.name for path in model.iterdir()),
        "weights": (model / "model.safetensors").read_bytes(),
        "description": (model / "model.json").read_text(),
        "known": known,
    }


def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    files: list[str], undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL, which no process survives or notices: within an epoch, and at the end of one before it is saved."""
    arguments = [*files, "--out", str(tmp_path / "m"), "--checkpoint-seconds", "0"]
    for where, step in (("after", 2), ("before", 4)):
        killed = run("-c", KILLED, where, str(step), *arguments)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "m" / "model.json").exists()
    assert "going on after step 2," in killed.stderr
    with caplog.at_level(logging.INFO, logger="fasten_model"):
        assert main(arguments) == 0
    assert "going on after step 5," in caplog.text
    assert outcome(tmp_path / "m") == outcome(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(
    number: signal.Signals, files: list[str], undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process: the handlers are put back as they were."""
    checkpoint = tmp_path / "elsewhere"
    arguments = [*files, "--out", str(tmp_path / "m"), "--checkpoint", str(checkpoint)]

    def ask(metrics: EpochMetrics) -> None:
        if metrics.epoch == 2:
            os.kill(os.getpid(), number)

    # A shell's background job ignores Ctrl-C, and what is ignored stays so.
    found = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fasten_model.train.loop.log_epoch", ask)
            assert main(arguments) == 128 + number
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, found)
    line = capfd.readouterr().err.splitlines()[-1]
    assert line == f"training was stopped after 6 steps; the same command goes on from the checkpoint in {checkpoint}"
    assert main(arguments) == 0
    assert outcome(tmp_path / "m") == outcome(undisturbed)
    assert not checkpoint.exists(), "done with"


def test_stopped_while_it_scores_the_training_is_not_lost(
    files: list[str], undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [*files, "--out", str(tmp_path / "m")]

    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fasten_model.fitting.predict_sharded", terminated)
        assert main(arguments) == 143
    assert capfd.readouterr().err.splitlines()[-1].startswith("stopped; the same command goes on")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fasten_model.train.loop.Loop._descend", terminated)
        assert main(arguments) == 0, "not a step is made again"
    assert outcome(tmp_path / "m") == outcome(undisturbed)


def test_torchrun_goes_on_from_what_one_process_began_and_ends_with_the_same_model(
    files: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    arguments = [*files, "--out", str(tmp_path / "m")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fasten_model.train.loop.log_epoch", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert main(arguments) == 143
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(*torchrun, "-m", "fasten_model.train", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("going on after step 3,") == 1
    assert done.stderr.count("epoch 3/3") == 1, "one of them tells"
    assert done.stdout.count("model: ") == 1
    assert outcome(tmp_path / "m")["files"] == outcome(undisturbed)["files"]
    found, expected = load_model(tmp_path / "m"), load_model(undisturbed)
    for name, value in expected.network.state_dict().items():
        # Adam makes a whole step of a rounding error where a gradient is nearly zero.
        torch.testing.assert_close(found.network.state_dict()[name], value, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(found.transition, expected.transition, atol=1e-3, rtol=1e-3)
    assert found.temperature == pytest.approx(expected.temperature, rel=0.02)


def test_torchrun_trains_several_models_as_one_process_does(files: list[str], tmp_path: Path) -> None:
    arguments = [*files, "--folds", "2"]
    assert main([*arguments, "--out", str(tmp_path / "alone")]) == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(*torchrun, "-m", "fasten_model.train", *arguments, "--out", str(tmp_path / "together"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("model 2 of 2, without 12 audited samples") == 1, "one of them tells"
    found, expected = load_model(tmp_path / "together"), load_model(tmp_path / "alone")
    assert found.network.state_dict().keys() == expected.network.state_dict().keys()
    for name, value in expected.network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], value, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(found.transition, expected.transition, atol=1e-3, rtol=1e-3)
    assert found.temperature == pytest.approx(expected.temperature, rel=0.02)


def test_the_model_is_the_one_of_fasten_train(files: list[str], undisturbed: Path, tmp_path: Path) -> None:
    model = load_model(undisturbed)
    assert sorted(model.classes) == sorted(CLASSES)
    known = json.loads((undisturbed / "fitted.json").read_text())
    assert [epoch["epoch"] for epoch in known["history"]] == [1, 2, 3]
    names = ["fitted.json", "model.json", "model.safetensors", "visits.safetensors"]
    assert sorted(path.name for path in undisturbed.iterdir()) == names
    with_cache = [*files, "--out", str(tmp_path / "m"), "--cache", str(tmp_path / "cache")]
    assert main(with_cache) == 0
    assert outcome(tmp_path / "m") == outcome(undisturbed)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--clean", "nowhere.parquet"], "nowhere.parquet cannot be read"),
        (["--lr", "0"], "lr must be above 0, got 0"),
        (["--lr", "1e30"], "training diverged in epoch"),
        (["--trunk", "oak"], "no trunk named 'oak'"),
        (["--device", "abacus"], "no device named 'abacus'"),
        (["--out", "pyproject.toml"], "pyproject.toml is a file"),
        (["--rho", "-1"], "rho must be 0 or above"),
        (["--certainty", "1"], "certainty must lie between 0 and 1"),
        (["--checkpoint-seconds", "-1"], "every_seconds must be 0 or above"),
        (["--checkpoint", "pyproject.toml/c"], "no checkpoint can be written to"),
    ],
)
def test_input_that_cannot_be_trained_on_is_one_line(
    changes: list[str],
    says: str,
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    assert main([*files, "--out", "m", *changes]) == 1
    assert says in capfd.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["pyproject.toml"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--preset", "huge"],
        ["--holdout", "1.5"],
        ["--folds", "0"],
        ["--folds", "21"],
        ["--epochs", "many"],
        ["--nonsense"],
    ],
)
def test_a_wrong_command_line_is_told_by_name(
    arguments: list[str], files: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    given = [*files, "--out", "m", *arguments] if arguments else []
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2
    assert (arguments[0] if arguments else "--clean") in capfd.readouterr().err


def test_a_checkpoint_of_other_settings_is_refused_with_a_way_out(
    files: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "m"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_files_module, "save_model", full)
        assert main([*files, "--out", str(out)]) == 1
    assert "No space left on device" in capfd.readouterr().err
    assert main([*files, "--out", str(out), "--seed", "4"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line == (
        f"{out / 'checkpoint'} has the checkpoint of another training (seed 0, here 4); "
        "remove that folder, or give another"
    )
    assert main([*files, "--out", str(out), "--seed", "4", "--checkpoint", str(tmp_path / "other")]) == 0
    assert main([*files, "--out", str(out)]) == 0, "the first one can still be ended"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"WORLD_SIZE": "2"}, "RANK must be a number in the environment, got None"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number in the environment, got 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "the other processes cannot be met"),
    ],
)
def test_an_environment_that_torchrun_did_not_make_is_one_line(
    changes: dict[str, str],
    says: str,
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    assert main([*files, "--out", str(tmp_path / "m")]) == 1
    error = capfd.readouterr().err
    assert error.startswith(says)
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_more_processes_than_gpus_is_one_line(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main([*files, "--out", str(tmp_path / "m"), "--device", "cuda"]) == 1
    assert "4 processes on this machine, but torch sees 2 GPUs; give --nproc-per-node that" in capfd.readouterr().err
    assert main([*files, "--out", str(tmp_path / "m"), "--device", "cuda:1"]) == 1
    assert "one device each, not on 'cuda:1'" in capfd.readouterr().err
