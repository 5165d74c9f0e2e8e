"""A checkpoint that cannot be gone on from is refused, told in one line, and left as it is."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.images.source import TableImages
from fasten_model.network import build_network
from fasten_model.train import OURS, Method, TrainConfig, train
from fasten_model.train.checkpoint import JSON_FILE, CheckpointConfig, CheckpointFolder, remove_checkpoint
from fasten_model.train.fingerprint import describe, describe_trunk
from fasten_model.trunks import build_trunk
from tests.fasten_model.train.killed_training import (
    CLASSES,
    CONFIG,
    NOISY,
    SIDE,
    STEPS,
    Killed,
    every_step,
    killed_after,
    outcome,
    progress,
    samples,
)


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


def own_trunk(activation: Any = nn.ReLU, *, seed: int = 0, width: int = 8) -> nn.Module:
    """A module whose class says nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, width), nn.BatchNorm1d(width), activation())


@pytest.mark.parametrize(
    "other",
    [own_trunk(nn.Tanh), own_trunk(seed=1), own_trunk(width=4)],
    ids=["layers", "weights", "shapes"],
)
def test_the_checkpoint_of_another_module_of_the_same_class_is_refused(other: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(samples(), CONFIG, trunk=own_trunk(), checkpoint=every_step(tmp_path), stop=killed_after(4))
    with pytest.raises(DataError, match=r"another training \(initial trunk\); remove that folder"):
        train(samples(), CONFIG, trunk=other, checkpoint=every_step(tmp_path))
    resumed = train(samples(), CONFIG, trunk=own_trunk(), checkpoint=every_step(tmp_path))
    assert outcome(resumed) == outcome(train(samples(), CONFIG, trunk=own_trunk()))


def test_other_weights_behind_the_same_path_are_another_training(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    config = replace(CONFIG, trunk_weights=str(path))
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            safetensors.torch.save_file(build_trunk("small", image_size=SIDE).module.state_dict(), path)
        if seed == 0:
            with pytest.raises(Killed):
                train(samples(), config, checkpoint=every_step(tmp_path / "c"), stop=killed_after(2))
    with pytest.raises(DataError, match=r"another training \(initial trunk\)"):
        train(samples(), config, checkpoint=every_step(tmp_path / "c"))


def test_a_trunk_is_described_by_what_it_begins_as_and_not_by_where_it_lies() -> None:
    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function: Callable[[Tensor], Tensor] = lambda images: images.flatten(1).float()
            self.register_buffer("scale", torch.ones((), dtype=torch.bfloat16))

        def extra_repr(self) -> str:
            return repr(self.function)

        def forward(self, images: Tensor) -> Tensor:
            return self.function(images)

    one, other = (describe_trunk(CONFIG, build_network(Calling(), CLASSES, image_size=SIDE)) for _ in range(2))
    assert one == other
    assert one["initial trunk"]
    assert describe_trunk(CONFIG, build_network("small", CLASSES)) == {"trunk": "small"}, "its seed tells the rest"


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
