"""Whoever ends a training finds its progress saved, and hears of the signal as before."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from fasten_model.train.stopping import StopOn, Stopped
from pipeline.saved_first import saved_first
from pipeline.settings import Settings
from pipeline.standalone import train_files


class Ended(Exception):
    """What the handler of somebody else makes of a signal."""


@contextmanager
def handler(number: signal.Signals, action: object) -> Iterator[None]:
    before = signal.signal(number, action)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


def end(_number: int, _frame: FrameType | None) -> None:
    raise Ended


def train_into(out: Path, clean: Path, noisy: Path, checkpoint: Path | None) -> bytes:
    settings = Settings(epochs=3, device="cpu")
    train_files(clean=clean, noisy=noisy, out=out, settings=settings, checkpoint=checkpoint)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_its_course_once_progress_is_saved(
    number: signal.Signals, clean: Path, noisy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "checkpoint"
    with pytest.MonkeyPatch.context() as patch, handler(number, end):
        patch.setattr("fasten_model.train.loop.log_epoch", lambda _: os.kill(os.getpid(), number))
        with pytest.raises(Ended):
            train_into(tmp_path / "model", clean, noisy, checkpoint)
        assert signal.getsignal(number) is end
    assert not (tmp_path / "model" / "model.json").exists()
    stopped_after = re.search(r"stopped after (\d+) steps; the same again goes on from there", caplog.text)
    assert stopped_after
    caplog.clear()
    with caplog.at_level("INFO", logger="fasten_model"):
        weights = train_into(tmp_path / "model", clean, noisy, checkpoint)
    assert f"going on after step {stopped_after[1]}," in caplog.text
    assert weights == train_into(tmp_path / "undisturbed", clean, noisy, None)


def test_without_a_checkpoint_a_signal_is_nobodys_but_the_process_own(clean: Path, noisy: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, handler(signal.SIGTERM, end):
        patch.setattr("fasten_model.train.loop.log_epoch", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Ended) as ended:
            train_into(tmp_path / "model", clean, noisy, None)
    assert ended.value.__context__ is None, "at once, and not after an orderly stop"


def test_a_handler_that_lets_the_process_live_leaves_the_training_stopped() -> None:
    heard: list[int] = []

    def train() -> None:
        with saved_first() as stop, stop as asked:
            signal.raise_signal(signal.SIGTERM)
            assert asked()
            assert heard == []
            raise Stopped(3, kept=True)

    with handler(signal.SIGTERM, lambda number, _: heard.append(number)), pytest.raises(Stopped):
        train()
    assert heard == [signal.SIGTERM]


def test_what_the_process_ignores_stops_no_training() -> None:
    with handler(signal.SIGINT, signal.SIG_IGN), StopOn(signal.SIGINT, signal.SIGTERM) as asked:
        signal.raise_signal(signal.SIGINT)
        assert not asked()
        signal.raise_signal(signal.SIGTERM)
        assert asked()


def test_from_the_shell_sigterm_ends_the_process_and_the_same_command_goes_on(
    clean: Path, noisy: Path, tmp_path: Path
) -> None:
    fasten = Path(sys.executable).with_name("fasten")
    command: list[str | Path] = [fasten, "train", "--clean", clean, "--noisy", noisy, "--epochs", "200"]
    command += ["--out", tmp_path / "model", "--checkpoint", tmp_path / "checkpoint"]
    environment = {**os.environ, "FASTEN_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "epoch 2/200" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM, lines
    assert re.search(r"training was stopped after \d+ steps; the same again goes on from there$", lines[-1].strip())
    assert list((tmp_path / "checkpoint").iterdir())
    assert not (tmp_path / "model").exists()
