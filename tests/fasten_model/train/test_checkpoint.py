"""Checkpoints: a training that was killed ends as one that was not, to the bit; no file on the disk is half of one."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.images.source import TableImages
from fasten_model.train import OURS, PAPER, Method, TrainConfig, Trained, TrainingSet, train
from fasten_model.train import checkpoint as checkpoint_module
from fasten_model.train.checkpoint import JSON_FILE, CheckpointConfig, CheckpointFolder, Progress, remove_checkpoint
from fasten_model.train.fingerprint import describe
from fasten_model.train.stopping import Stopped
from fasten_model.whole_file import write_whole

NOISY, CLEAN, CLASSES, SIDE, EPOCHS = 20, 9, 3, 12, 3
STEPS = 3 * EPOCHS
CONFIG = TrainConfig(epochs=EPOCHS, noisy_batch=8, clean_batch=6, image_size=SIDE, device="cpu")

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
    "annotators": replace(OURS, estimator="bulk_posterior", annotators=True),
}


class Killed(Exception):
    """Stands for a signal that no process survives."""


def samples(*, seed: int = 0, **changes: Any) -> TrainingSet:
    generator = torch.Generator().manual_seed(seed)
    fields: dict[str, Any] = {
        "noisy_images": torch.randint(256, (NOISY, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        "noisy_labels": torch.arange(NOISY) % CLASSES,
        "clean_images": torch.randint(256, (CLEAN, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        "clean_labels": torch.arange(CLEAN) % CLASSES,
        "clean_estimates": torch.ones(CLEAN, dtype=torch.bool),
        "num_classes": CLASSES,
        "votes": torch.randint(-1, CLASSES, (NOISY, 2), generator=generator),
        "held_out_images": torch.randint(256, (6, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        "held_out_labels": torch.arange(6) % CLASSES,
    }
    return TrainingSet(**{**fields, **changes})


def killed_after(polls: int) -> Any:
    """A `Stop` that is never asked for, and ends the process, so to speak, after so many steps."""
    asked = 0

    def poll() -> bool:
        nonlocal asked
        asked += 1
        if asked > polls:
            raise Killed
        return False

    return nullcontext(poll)


def every_step(folder: Path) -> CheckpointConfig:
    return CheckpointConfig(folder=folder, every_seconds=0)


def outcome(trained: Trained) -> dict[str, Any]:
    """Everything that training leaves, but for the time it took."""
    return {
        "weights": {name: value.tolist() for name, value in trained.network.state_dict().items()},
        "transition": trained.transition.tolist(),
        "transitions": trained.transitions.tolist(),
        "labels": trained.corrected_labels.tolist(),
        "history": [replace(metrics, seconds=0.0) for metrics in trained.history],
    }


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


class Dropping(nn.Module):
    """A trunk that draws random numbers as it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE * SIDE, 8)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(torch.relu(self.layer(images.flatten(1))), 0.5, self.training)


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


def progress(step: int) -> Progress:
    return Progress(step=step, seconds=0.5, history=(), losses=torch.ones(4), tensors={"a": torch.full((3,), step)})


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
    ("config", "data", "says"),
    [
        (replace(CONFIG, seed=1), {}, "seed 0, here 1"),
        (replace(CONFIG, lr=1e-4), {}, "preset.lr 0.003, here 0.0001"),
        (replace(CONFIG, method=replace(OURS, rho=0.123)), {}, "method.rho"),
        (CONFIG, {"seed": 1}, r"another training \(data\)"),
        (CONFIG, {"noisy_labels": torch.zeros(NOISY).long()}, r"\(data\)"),
    ],
)
def test_another_trainings_checkpoint_is_refused_and_left_as_it_is(
    config: TrainConfig, data: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(samples(), CONFIG, checkpoint=every_step(tmp_path), stop=killed_after(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=says) as caught:
        train(samples(**data), config, checkpoint=every_step(tmp_path))
    assert "remove that folder, or give another" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_trainings_checkpoint_can_be_replaced_instead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        train(samples(), CONFIG, checkpoint=every_step(tmp_path), stop=killed_after(2))
    other = replace(CONFIG, seed=1)
    anew = train(samples(), other, checkpoint=replace(every_step(tmp_path), refuse_other=False))
    assert "training starts anew" in caplog.text
    assert outcome(anew) == outcome(train(samples(), other))
    assert outcome(train(samples(), other, checkpoint=every_step(tmp_path))) == outcome(anew)


def test_another_device_and_images_elsewhere_are_the_same_training() -> None:
    data = samples()
    assert isinstance(data.noisy_images, Tensor)
    elsewhere = replace(data, noisy_images=TableImages(data.noisy_images))
    assert describe(CONFIG, data) == describe(replace(CONFIG, device="cuda:3"), elsewhere)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / JSON_FILE).write_text("{"),
        lambda folder: (folder / JSON_FILE).write_text("[]"),
        lambda folder: (folder / JSON_FILE).write_text('{"format": 99}'),
        lambda folder: next(folder.glob("*.safetensors")).unlink(),
        lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"x" * 100),
        lambda folder: edit_json(folder, history=[{"epoch": 1}]),
        lambda folder: edit_json(folder, step=None),
    ],
)
def test_a_damaged_checkpoint_is_one_line(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    folder = CheckpointFolder(CheckpointConfig(folder=tmp_path), {})
    folder.write(progress(3))
    damage(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read .*remove that folder, or give another") as caught:
        folder.read()
    assert "\n" not in str(caught.value)


def edit_json(folder: Path, **changes: Any) -> None:
    path = folder / JSON_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_checkpoint_that_does_not_fit_the_network_is_one_line(tmp_path: Path) -> None:
    """A module of the caller's that has changed but not its name."""
    wide, narrow = Dropping(), Dropping()
    narrow.layer = nn.Linear(3 * SIDE * SIDE, 4)
    train(samples(), CONFIG, trunk=wide, checkpoint=every_step(tmp_path))
    with pytest.raises(DataError, match="does not fit this training") as caught:
        train(samples(), CONFIG, trunk=narrow, checkpoint=every_step(tmp_path))
    assert "\n" not in str(caught.value)


def cut(folder: Path) -> None:
    """The tensors end in the midst, and their hash is that of what is left."""
    path = next(folder.glob("*.safetensors"))
    content = path.read_bytes()[:-100]
    path.write_bytes(content)
    edit_json(folder, tensors_sha256=hashlib.sha256(content).hexdigest())


def retensor(folder: Path, **changes: Tensor | None) -> None:
    """The same checkpoint with other tensors, as another version may have written them; None: without."""
    path = next(folder.glob("*.safetensors"))
    tensors = {**safetensors.torch.load(path.read_bytes()), **changes}
    content = safetensors.torch.save({name: value for name, value in tensors.items() if value is not None})
    path.write_bytes(content)
    edit_json(folder, tensors_sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "unfit",
    [
        cut,
        lambda folder: next(folder.glob("*.safetensors")).write_bytes(b""),
        lambda folder: (folder / JSON_FILE).write_bytes((folder / JSON_FILE).read_bytes()[:200]),
        lambda folder: edit_json(folder, format=99),
        lambda folder: edit_json(folder, training={"seed": 7}),
        lambda folder: retensor(folder, **{"network/clean_head.weight": torch.zeros(CLASSES, 7)}),
        lambda folder: retensor(folder, **{"network/noisy_head.bias": None}),
        lambda folder: retensor(folder, **{"network/another.weight": torch.zeros(3)}),
        lambda folder: retensor(folder, **{"optimizer.99/exp_avg": torch.zeros(3)}),
        lambda folder: retensor(folder, **{"step/labels": None}),
        lambda folder: retensor(folder, **{"step/transition_counts": torch.zeros(5, 5, 5)}),
        lambda folder: retensor(folder, **{"step/another": torch.zeros(5)}),
    ],
    ids=["cut", "empty", "half the JSON", "version", "config", "width", "missing", "more", "optimizer", "step: missing",
         "step: shape", "step: more"],
)  # fmt: skip
@pytest.mark.parametrize("refuse_other", [False, True])
def test_a_checkpoint_that_cannot_be_gone_on_from_is_told_and_stops_only_who_wants_it_to(
    unfit: Callable[[Path], Any], refuse_other: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it is left in the training that starts anew, however late it was found out."""
    with pytest.raises(Killed):
        train(samples(), CONFIG, checkpoint=every_step(tmp_path), stop=killed_after(4))
    unfit(tmp_path)
    checkpoint = replace(every_step(tmp_path), refuse_other=refuse_other)
    if refuse_other:
        with pytest.raises(DataError, match="checkpoint") as caught:
            train(samples(), CONFIG, checkpoint=checkpoint)
        assert "\n" not in str(caught.value)
        return
    anew = train(samples(), CONFIG, checkpoint=checkpoint)
    assert "training starts anew: " in caplog.text
    assert outcome(anew) == outcome(train(samples(), CONFIG))
    assert json.loads((tmp_path / JSON_FILE).read_text())["step"] == STEPS, "replaced"


def test_a_training_that_diverges_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="diverged"):
        train(samples(), replace(CONFIG, lr=1e30), checkpoint=every_step(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_written_to_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="no checkpoint can be written to"):
        train(samples(), CONFIG, checkpoint=every_step(tmp_path / "file" / "c"))


def test_only_its_own_files_are_removed(tmp_path: Path) -> None:
    folder = CheckpointFolder(CheckpointConfig(folder=tmp_path), {})
    folder.write(progress(3))
    (tmp_path / "thesis.txt").touch()
    remove_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "thesis.txt").unlink()
    remove_checkpoint(tmp_path)
    assert not tmp_path.exists()
    remove_checkpoint(tmp_path)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_senseless_interval_is_refused(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every_seconds"):
        CheckpointConfig(folder=tmp_path, every_seconds=seconds)


def test_every_switch_of_the_method_is_a_choice_that_is_told() -> None:
    described = describe(CONFIG, samples())
    assert {f"method.{name}" for name in Method.__dataclass_fields__} <= described.keys()
