"""Weights from a local file: all of them or a line that says what does not fit, and no code from a pickle."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors.torch import save_file
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.model import Model, save_model
from fasten_model.network import build_network
from fasten_model.trunk_weights import load_trunk_weights
from fasten_model.trunks import build_trunk


def load(trunk: nn.Module, path: Path) -> None:
    load_trunk_weights(trunk, path, trunk_name="mine")


def same(trunk: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in trunk.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_librarys_file_with_its_classifier_loads(tmp_path: Path, suffix: str) -> None:
    model = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    trunk = build_trunk("torchvision:shufflenet_v2_x0_5").module
    load(trunk, path)
    assert same(trunk, model.state_dict())


def below(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: {key: tensors, "epoch": 3}


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("wrap", [below("state_dict"), below("model"), prefixed("module."), prefixed("module.trunk.")])
def test_the_usual_wrappings_are_taken_off(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object]) -> None:
    weights = build_trunk("small").module.state_dict()
    torch.save(wrap(weights), tmp_path / "w.pt")
    trunk = build_trunk("small").module
    load(trunk, tmp_path / "w.pt")
    assert same(trunk, weights)


def test_a_model_of_ours_gives_its_trunk(tmp_path: Path) -> None:
    network = build_network("fast", 3)
    model = Model(
        network=network,
        classes=("a", "b", "c"),
        preset="fast",
        image_size=32,
        temperature=1.0,
        transition=torch.eye(3),
        rho=0.8,
    )
    save_model(model, tmp_path)
    trunk = build_trunk("fast").module
    load(trunk, tmp_path / "model.safetensors")
    assert same(trunk, network.trunk.state_dict())


def test_a_count_of_steps_may_be_missing(tmp_path: Path) -> None:
    weights = {n: t for n, t in build_trunk("small").module.state_dict().items() if not n.endswith("tracked")}
    save_file(weights, tmp_path / "w.safetensors")
    load(build_trunk("small").module, tmp_path / "w.safetensors")


def test_what_does_not_fit_is_told_in_one_line_and_nothing_is_loaded(tmp_path: Path) -> None:
    trunk = build_trunk("resnet18").module
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    weights = torchvision.models.get_model("resnet18", weights=None).state_dict()
    for name in ("layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer2.0.bn1.weight", "layer2.0.bn1.bias"):
        del weights[name]
    weights["fc.weight"] = weights["layer9.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(DataError) as caught:
        load(trunk, tmp_path / "w.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'w.pt'} does not fit trunk mine: tensors "
        "4 missing (layer1.0.bn1.weight, layer1.0.bn1.bias, layer2.0.bn1.weight, …); "
        "1 of another shape (conv1.weight [64, 3, 7, 7], not [64, 3, 3, 3]); 1 unknown (layer9.weight)"
    )
    assert same(trunk, before)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = build_trunk("small").module.state_dict()
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"0\.0\.weight holds numbers that are not finite"):
        load(build_trunk("small").module, tmp_path / "w.safetensors")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    torch.save({"weight": Hostile(tmp_path / "made")}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="holds more than tensors") as caught:
        load(build_trunk("small").module, tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.safetensors", b"", "is not a sound weights file"),
        ("w.safetensors", b"\xff" * 100, "is not a sound weights file"),
        ("w.pt", b"", r"is not a sound weights file \(EOFError\)"),
        ("w.pt", b"hello", "is not a sound weights file"),
        ("w.pt", b"PK\x03\x04" + b"\0" * 100, "is not a sound weights file"),
        ("w.onnx", b"", r"weights are read from \.safetensors, \.pt, \.pth, \.bin files only"),
        ("w.pt", None, "cannot be read"),
        ("w.safetensors", None, "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        load(build_trunk("small").module, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"weight": 3}, torch.zeros(2)])
def test_a_file_without_tensors_by_name_says_so(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match="holds no tensors by name"):
        load(build_trunk("small").module, tmp_path / "w.pt")
