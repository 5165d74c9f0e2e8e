"""Checkpoints: a training that was killed ends as one that was not, to the bit; no file on the disk is half of one."""

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.train import OURS, PAPER, Method, TrainConfig, train
from fasten_model.train import checkpoint as checkpoint_module
from fasten_model.train.checkpoint import JSON_FILE, CheckpointConfig, CheckpointFolder, remove_checkpoint
from fasten_model.train.loop import Loop
from fasten_model.train.stopping import Stopped
from fasten_model.trunks import build_trunk
from fasten_model.whole_file import write_whole
from tests.fasten_model.train.killed_training import (
    CONFIG,
    SIDE,
    STEPS,
    Dropping,
    Killed,
    every_step,
    killed_after,
    outcome,
    progress,
    samples,
)

METHODS = {
    "paper": PAPER,
    "ours": OURS,
    "averaged weights": replace(OURS, ema=0.9),
    "average of q": replace(OURS, correction="average", correction_start=0.0),
    "ensemble": replace(OURS, correction="ensemble", correction_start=0.0),
    "folds": replace(OURS, estimator="clean_decayed", folds=2),
    "resample": replace(OURS, loss="resample", correction_start=0.0, rho=0.1),
    "priors": replace(OURS, prior_correction=True),
    "evaluation features": replace(PAPER, evaluation_features=True),
    "one annotator": replace(OURS, annotators=False),
    "joint": replace(OURS, forwards="joint"),
}


def test_no_two_methods_are_the_same() -> None:
    assert len(set(METHODS.values())) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_training_killed_again_and_again_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    """Each process makes a few steps only, so that it is taken up within epochs and between them."""
    config = replace(CONFIG, method=METHODS[name])
    lives, trained = 0, None
    while trained is None:
        lives += 1
        try:
            trained = train(samples(), config, checkpoint=every_step(tmp_path / "c"), stop=killed_after(2))
        except Killed:
            assert lives < 10
    assert lives == 5, "two steps of nine in each life"
    assert outcome(trained) == outcome(train(samples(), config))


@pytest.mark.parametrize("polls", range(STEPS))
def test_whichever_step_is_the_last(polls: int, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(samples(), CONFIG, checkpoint=every_step(tmp_path / "c"), stop=killed_after(polls))
    resumed = train(samples(), CONFIG, checkpoint=every_step(tmp_path / "c"))
    assert outcome(resumed) == outcome(train(samples(), CONFIG))


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_other_optimisers_and_trunks_go_on_too(preset: str, tmp_path: Path) -> None:
    """SGD with momentum; a first layer that is computed from the images."""
    trunk = "small" if preset == "paper" else None
    config = TrainConfig(
        preset=preset, trunk=trunk, epochs=2, noisy_batch=10, clean_batch=6, image_size=SIDE, device="cpu"
    )
    with pytest.raises(Killed):
        train(samples(), config, checkpoint=every_step(tmp_path / "c"), stop=killed_after(1))
    resumed = train(samples(), config, checkpoint=every_step(tmp_path / "c"))
    assert outcome(resumed) == outcome(train(samples(), config))


def test_random_layers_draw_what_they_would_have_drawn(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trunk, before = Dropping(), torch.get_rng_state()
    whole = train(samples(), CONFIG, trunk=trunk)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are left alone"
    torch.rand(1)
    with pytest.raises(Killed):
        train(samples(), CONFIG, trunk=trunk, checkpoint=every_step(tmp_path / "c"), stop=killed_after(4))
    resumed = train(samples(), CONFIG, trunk=trunk, checkpoint=every_step(tmp_path / "c"))
    assert outcome(resumed) == outcome(whole)


def test_a_training_that_is_over_is_not_made_again(tmp_path: Path) -> None:
    heard: list[int] = []
    first = train(samples(), CONFIG, checkpoint=CheckpointConfig(folder=tmp_path / "c"))
    again = train(
        samples(),
        CONFIG,
        checkpoint=CheckpointConfig(folder=tmp_path / "c"),
        on_epoch=lambda metrics: heard.append(metrics.epoch),
    )
    assert outcome(again) == outcome(first)
    assert again.history == first.history, "seconds too"
    assert heard == []


@pytest.mark.parametrize("seconds", [-1, float("nan"), "60", None])
def test_a_time_that_is_none_is_one_line(seconds: Any) -> None:
    with pytest.raises(DataError, match=f"^every_seconds must be 0 or above, got {seconds!r}$"):
        CheckpointConfig(folder="c", every_seconds=seconds)


def test_paths_may_be_texts(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(build_trunk("small", image_size=SIDE).module.state_dict(), weights)
    as_text = CheckpointConfig(folder=str(tmp_path / "c"))
    first = train(samples(), replace(CONFIG, trunk_weights=weights), checkpoint=as_text)
    again = train(
        samples(),
        replace(CONFIG, trunk_weights=str(weights)),
        checkpoint=CheckpointConfig(folder=tmp_path / "c"),
        stop=killed_after(0),
    )
    assert outcome(again) == outcome(first)
    assert as_text.of_fold(0, 2).folder == tmp_path / "c" / "fold-1-of-2"
    remove_checkpoint(as_text.folder)
    assert not (tmp_path / "c").exists()


def test_each_epoch_is_told_of_by_the_process_in_which_it_ends(tmp_path: Path) -> None:
    heard: list[int] = []
    trained = None
    while trained is None:
        with suppress(Killed):
            trained = train(
                samples(),
                CONFIG,
                checkpoint=every_step(tmp_path / "c"),
                stop=killed_after(2),
                on_epoch=lambda metrics: heard.append(metrics.epoch),
            )
    assert heard == [1, 1, 2, 3, 3], "twice where it died once it had told of an epoch and before it had saved it"
    assert all(metrics.seconds > 0 for metrics in trained.history)


def test_asked_to_stop_it_saves_leaves_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = CheckpointConfig(folder=tmp_path / "c", every_seconds=1e6)
    polls = iter([False] * 4 + [True])
    with pytest.raises(Stopped, match="stopped after 5 steps") as caught:
        train(samples(), CONFIG, checkpoint=config, stop=nullcontext(lambda: next(polls)))
    assert (caught.value.step, caught.value.kept) == (5, True)
    with caplog.at_level(logging.INFO, logger="fasten_model"):
        resumed = train(samples(), CONFIG, checkpoint=config)
    assert "going on after step 5" in caplog.text
    assert outcome(resumed) == outcome(train(samples(), CONFIG))


def test_without_a_checkpoint_nothing_is_kept_of_a_stopped_training(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="nothing is kept") as caught:
        train(samples(), CONFIG, stop=nullcontext(lambda: True))
    assert not caught.value.kept
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_due_only_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fasten_model.train.checkpoint.time.monotonic", lambda: now)
    folder = CheckpointFolder(CheckpointConfig(folder=tmp_path), {})
    assert not folder.is_due()
    now = 59.9
    assert not folder.is_due()
    now = 60.0
    assert folder.is_due()
    folder.write(progress(1))
    assert not folder.is_due()


@pytest.mark.parametrize("crash", ["write", "fsync", "replace", "unlink"])
def test_at_no_moment_is_there_only_half_of_a_checkpoint(
    crash: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends within each call by which a checkpoint is written: the older or the newer one can be read."""
    folder = CheckpointFolder(CheckpointConfig(folder=tmp_path), {"seed": 1})
    folder.write(progress(1))
    read = []
    for survived in range(8):
        with monkeypatch.context() as patch:
            left = survived

            def dying(call: Callable[..., Any]) -> Callable[..., Any]:
                def dies(*arguments: Any, **named: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise Killed
                    return call(*arguments, **named)

                return dies

            if crash == "write":
                patch.setattr(checkpoint_module, "write_whole", dying(write_whole))
            elif crash == "fsync":
                patch.setattr(os, "fsync", dying(os.fsync))
            else:
                patch.setattr(Path, crash, dying(getattr(Path, crash)))
            with suppress(Killed):
                folder.write(progress(2 + survived))
        found = CheckpointFolder(CheckpointConfig(folder=tmp_path), {"seed": 1}).read()
        assert found is not None
        assert found.tensors["a"].tolist() == [found.step] * 3
        read.append(found.step)
    assert read[0] == 1 or crash == "unlink"
    assert read[-1] == 9, "in the end nothing failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == [JSON_FILE, "step-9.safetensors"]


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "write_whole", full)
    trained = train(samples(), CONFIG, checkpoint=every_step(tmp_path / "c"))
    assert f"no checkpoint of step {STEPS}: {tmp_path / 'c'}: No space left on device" in caplog.text
    assert outcome(trained) == outcome(train(samples(), CONFIG))


@pytest.mark.parametrize(
    ("method", "says"), [(PAPER, "diverged in epoch .*lower lr"), (OURS, "diverged in step .*lower lr")]
)
def test_a_training_that_diverges_leaves_nothing_to_go_on_from(tmp_path: Path, method: Method, says: str) -> None:
    """Seen at an epoch's end, or before that where the next epoch asks the held-out samples in vain."""
    config = replace(CONFIG, lr=1e30, noisy_batch=64, method=method)
    with pytest.raises(DataError, match=says):
        train(samples(), config, checkpoint=every_step(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("change", [{}, {"ema": 0.9}], ids=["last weights", "averaged weights"])
def test_a_network_that_its_last_step_loses_is_given_up_too(change: dict[str, Any], tmp_path: Path) -> None:
    """Its weights are finite, and what it says is not; no loss is computed after that step."""
    config = replace(CONFIG, lr=1e30, epochs=1, noisy_batch=64, method=replace(OURS, **change))
    heard: list[int] = []
    for _ in range(2):
        with pytest.raises(DataError, match=r"^training diverged in step 0, its last; lower lr \(it was 1e\+30\)$"):
            train(samples(), config, checkpoint=every_step(tmp_path / "c"), on_epoch=lambda m: heard.append(m.epoch))
        assert not (tmp_path / "c").exists()
    assert heard == []


def test_a_held_out_image_that_cannot_be_read_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read within a step; once that is mended, training goes on."""
    read = Loop.forward_as_trained

    def broken(loop: Loop, images: Tensor, step: int) -> Tensor:
        if step > 0:
            raise DataError("image 3 cannot be read")
        return read(loop, images, step)

    monkeypatch.setattr(Loop, "forward_as_trained", broken)
    with pytest.raises(DataError, match="image 3"):
        train(samples(), CONFIG, checkpoint=every_step(tmp_path / "c"))
    monkeypatch.undo()
    assert any((tmp_path / "c").iterdir())
    assert outcome(train(samples(), CONFIG, checkpoint=every_step(tmp_path / "c"))) == outcome(train(samples(), CONFIG))
