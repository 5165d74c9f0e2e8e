"""Models on disk: they come back as they were, and nothing malformed or hostile gets in."""

import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from fasten_model.errors import DataError
from fasten_model.model import JSON_FILE, WEIGHTS_FILE, load_model, read_trunk_name, save_model
from fasten_model.scoring import score
from tests.fasten_model.small_models import edit, small_model

LABELS = torch.zeros(2, dtype=torch.int64)


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (20, 10), grey).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_saved_model_loads_and_predicts_the_same(tmp_path: Path) -> None:
    model = small_model()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [JSON_FILE, WEIGHTS_FILE]
    for name in ("classes", "preset", "image_size", "temperature", "evidence", "rho", "metadata"):
        assert getattr(loaded, name) == getattr(model, name)
    assert torch.equal(loaded.transition, model.transition)
    images = [png(0), png(200)]
    assert torch.equal(loaded.predict_bytes(images), model.predict_bytes(images))


def test_a_rho_of_each_class_is_kept_and_a_model_without_has_the_same_of_all(tmp_path: Path) -> None:
    one = small_model()
    save_model(replace(one, rho_per_class=(0.8, 2.0, 0.95)), tmp_path)
    assert load_model(tmp_path).thresholds == (0.8, 2.0, 0.95)
    description = json.loads((tmp_path / JSON_FILE).read_text())
    for unlike in ([0.8, 2.0], [0.8, "2", 0.9], [0.8, -1, 0.9], "0.8", {"0": 1}):
        (tmp_path / JSON_FILE).write_text(json.dumps(description | {"rho_per_class": unlike}))
        with pytest.raises(DataError, match="'rho_per_class' must be a number from 0 for each class"):
            load_model(tmp_path)
    with pytest.raises(DataError, match="rho_per_class must be one of each class: 3, not 2"):
        replace(one, rho_per_class=(0.8, 2.0))
    del description["rho_per_class"]  # as the models were before
    (tmp_path / JSON_FILE).write_text(json.dumps(description))
    assert load_model(tmp_path).rho_per_class is None
    assert load_model(tmp_path).thresholds == (0.8, 0.8, 0.8)


def test_probabilities_are_the_tempered_softmax_of_the_clean_head() -> None:
    model = small_model()
    images = model.decode([png(0), png(90), png(200)])
    assert (images.dtype, images.shape) == (torch.uint8, (3, 3, 16, 16))
    logits, probabilities = model.predict_logits(images), model.predict_probabilities(images)
    torch.testing.assert_close(probabilities, torch.softmax(logits / 1.7, dim=1))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))


def test_logits_can_be_changed_and_learnt_from() -> None:
    """They were made in inference mode, of which torch allows neither."""
    model = small_model()
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    teacher = model.predict_logits(images)
    teacher /= 2
    student = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad((student * teacher).sum(), student)
    assert torch.equal(gradient, teacher)


@pytest.mark.parametrize(
    ("images", "kind"), [(["a.png"], "str"), ([Path("a.png")], "PosixPath"), (b"abc", "int"), ("a.png", "str")]
)
def test_what_is_no_image_bytes_is_one_line(images: Any, kind: str) -> None:
    with pytest.raises(DataError, match=rf"^image 0 must be the bytes of an image file, got {kind}: .*read_bytes\(\)"):
        small_model().predict_bytes(images)


def test_no_images_give_no_predictions() -> None:
    assert small_model().predict_bytes([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(2, 3, 16, 16), r"images must be uint8 \[N,3,S,S\], got float32 \[2, 3, 16, 16\]"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"must be uint8 \[N,3,S,S\], got uint8 \[3, 16, 16\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "must be 16×16, as the model was trained, got 32×32"),
    ],
)
def test_images_that_the_model_was_not_trained_on_are_no_images_to_it(images: torch.Tensor, says: str) -> None:
    model = small_model()
    for judge in (model.predict_logits, model.predict_probabilities, lambda given: score(model, given, LABELS)):
        with pytest.raises(DataError, match=says):
            judge(images)


@pytest.mark.parametrize(
    "labels", [torch.zeros(2), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.int64)]
)
def test_labels_to_be_judged_are_whole_numbers_in_a_row(labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"given_labels must be whole numbers \[N\], got "):
        score(small_model(), torch.zeros(2, 3, 16, 16, dtype=torch.uint8), labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_fewer_bits_are_judged_alike(dtype: torch.dtype) -> None:
    model, labels = small_model(), torch.tensor([0, 2, 1])
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, expected = score(model, images, labels.to(dtype)), score(model, images, labels)
    assert torch.equal(found.given_labels, labels)
    assert torch.equal(found.posterior, expected.posterior)


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    folder = str(tmp_path / "model")
    save_model(small_model(), folder)
    assert load_model(folder).classes == small_model().classes
    assert read_trunk_name(folder) == "small"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^the model cannot be written to .*/file/model \(Not a directory\)$"):
        save_model(small_model(), tmp_path / "file" / "model")


def test_a_file_in_a_models_place_is_one_line(tmp_path: Path) -> None:
    there = tmp_path / "model"
    there.write_text("notes")
    with pytest.raises(DataError, match=r"model is a file: a model is a folder"):
        save_model(small_model(), there)
    assert there.read_text() == "notes"


def test_a_bad_image_is_named_by_its_position() -> None:
    with pytest.raises(DataError, match="image 1: not a PNG"):
        small_model().predict_bytes([png(0), b"<html>"])


class Own(nn.Module):
    """A trunk of somebody's own, with tied weights."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.one = nn.Linear(3, width)
        self.two = nn.Linear(3, width)
        self.two.weight = self.one.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean(dim=(2, 3))
        features: torch.Tensor = self.one(mean) + self.two(mean)
        return features


class Other(Own):
    """Another class."""


@pytest.mark.parametrize(
    "trunk", ["fast", "torchvision:shufflenet_v2_x0_5", "regnet_y_400mf", "timm:test_resnet", "timm:test_vit"]
)
def test_every_kind_of_trunk_is_built_again_from_its_name(tmp_path: Path, trunk: str) -> None:
    model = small_model(trunk=trunk, image_size=32)
    save_model(model, tmp_path)
    images = [png(0), png(200)]
    assert torch.equal(load_model(tmp_path).predict_bytes(images), model.predict_bytes(images))
    assert load_model(tmp_path).network.trunk_name == read_trunk_name(tmp_path) == model.network.trunk_name


def test_a_module_of_ones_own_is_given_back_to_load_it(tmp_path: Path) -> None:
    model = small_model(trunk=Own())
    save_model(model, tmp_path)
    fresh = Own()
    loaded = load_model(tmp_path, trunk=fresh)
    assert torch.equal(loaded.predict_bytes([png(7)]), model.predict_bytes([png(7)]))
    assert not torch.equal(loaded.network.state_dict()["trunk.one.weight"], fresh.one.weight)
    with pytest.raises(
        DataError, match=r"its trunk is your own 'module:Own'; give that module: load_model\(folder, trunk"
    ):
        load_model(tmp_path)
    with pytest.raises(DataError, match="its trunk is 'module:Own', not your Other"):
        load_model(tmp_path, trunk=Other())
    with pytest.raises(DataError, match=r"tensors do not fit trunk and classes \(clean_head\.weight"):
        load_model(tmp_path, trunk=Own(width=6))


def test_a_module_is_refused_where_the_model_has_a_trunk_of_its_own(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path)
    with pytest.raises(DataError, match="its trunk is 'small', not your Own"):
        load_model(tmp_path, trunk=Own())


def test_a_trunk_whose_state_is_no_tensor_is_not_saved(tmp_path: Path) -> None:
    class Stateful(Own):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    with pytest.raises(DataError, match=r"module:Stateful keeps state that is no tensor \(trunk\._extra_state\)"):
        save_model(small_model(trunk=Stateful()), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": (1, 2, 3)}, "'classes' must be two or more different names"),
        ({"annotators": ("a", "a"), "annotator_transitions": torch.full((2, 3, 3), 1 / 3)}, "must be different names"),
        ({"rho": math.nan}, "'rho' must be a number from 0"),
        ({"temperature": torch.ones(())}, "not saved: .*Tensor"),
        ({"metadata": {"note": "\ud800"}}, "not saved: .*surrogates not allowed"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        save_model(replace(small_model(), **changes), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_known_of_each_annotator_travels_along(tmp_path: Path) -> None:
    transitions = torch.softmax(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)), dim=2)
    model = replace(small_model(), annotators=("ann", "bob"), annotator_transitions=transitions)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.annotators == ("ann", "bob")
    assert loaded.annotator_transitions is not None
    assert torch.equal(loaded.annotator_transitions, transitions)


@pytest.mark.parametrize("shape", [None, (3, 3), (1, 3, 3), (2, 4, 4)])
def test_annotators_without_a_matrix_each_are_refused(shape: tuple[int, ...] | None) -> None:
    transitions = None if shape is None else torch.full(shape, 1 / 3)
    with pytest.raises(DataError, match=r"annotator_transitions must be \[2, 3, 3\]"):
        replace(small_model(), annotators=("ann", "bob"), annotator_transitions=transitions)


def test_a_model_of_format_1_still_loads(tmp_path: Path) -> None:
    model = small_model()
    save_model(model, tmp_path)
    description = json.loads((tmp_path / JSON_FILE).read_text())
    del description["trunk"], description["annotators"]
    (tmp_path / JSON_FILE).write_text(json.dumps({**description, "format": 1}))
    assert torch.equal(load_model(tmp_path).predict_bytes([png(7)]), model.predict_bytes([png(7)]))


def test_saving_again_replaces_the_model_and_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "scores.parquet").write_text("kept")
    save_model(small_model(0), tmp_path)
    save_model(small_model(1), tmp_path)
    assert torch.equal(load_model(tmp_path).transition, small_model(1).transition)
    assert sorted(path.name for path in tmp_path.iterdir()) == [JSON_FILE, WEIGHTS_FILE, "scores.parquet"]


def test_one_half_of_another_model_is_refused(tmp_path: Path) -> None:
    save_model(small_model(0), tmp_path / "a")
    save_model(small_model(1), tmp_path / "b")
    (tmp_path / "b" / WEIGHTS_FILE).replace(tmp_path / "a" / WEIGHTS_FILE)
    with pytest.raises(DataError, match=r"not the file that model\.json describes"):
        load_model(tmp_path / "a")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Other tensors under a hash that fits them: what someone with write access could do."""
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    edit(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 4},
        {"format": [2]},
        {"classes": ["only one"]},
        {"classes": ["cat", "cat", "ant"]},
        {"classes": ["cat", 1, "ant"]},
        {"classes": [["cat"], "dog", "ant"]},
        {"classes": "cat"},
        {"classes": [str(number) for number in range(100_000)]},
        {"preset": "no such preset"},
        {"preset": ["small"]},
        {"trunk": "resnet18"},
        {"trunk": "no such trunk"},
        {"trunk": "timm:hf-hub:someone/something"},
        {"trunk": "module:Own"},
        {"trunk": None},
        {"annotators": "ann"},
        {"annotators": ["ann", "ann"]},
        {"annotators": ["ann", "bob"]},
        {"image_size": 0},
        {"image_size": True},
        {"image_size": 10**9},
        {"image_size": "32"},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": None},
        {"evidence": -0.1},
        {"rho": -0.1},
        {"rho": "0.8"},
        {"metadata": {"key": 1}},
        {"metadata": []},
        {"weights_sha256": None},
        {"weights_sha256": "0" * 64},
        {"visits": {"sha256": "0" * 64, "weights": [1.0, 1.0]}},
        {"visits": {"sha256": "0" * 64, "weights": [1.0, -1.0, 1.0]}},
        {"visits": {"weights": [1.0, 1.0, 1.0]}},
        {"visits": []},
    ],
    ids=lambda changes: repr(changes)[:40],
)
def test_a_malformed_description_is_one_line_of_data_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_model(small_model(), tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, "\xff\xfe", '{"format": 1}'])
def test_a_description_that_is_not_one_is_a_data_error(tmp_path: Path, text: str) -> None:
    save_model(small_model(), tmp_path)
    (tmp_path / JSON_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(DataError):
        load_model(tmp_path)


def rename_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["other"] = tensors.pop("clean_head.weight")


def reshape_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["clean_head.weight"] = tensors["clean_head.weight"][:2].clone()


def poison_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["clean_head.bias"][0] = float("nan")


def transpose_transition(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transition"] = tensors["transition"].t().contiguous()


def add_annotators(tensors: dict[str, torch.Tensor]) -> None:
    tensors["annotator_transitions"] = tensors["transition"][None].clone()


@pytest.mark.parametrize("change", [rename_head, reshape_head, poison_head, transpose_transition, add_annotators])
def test_weights_that_do_not_fit_are_a_data_error(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    save_model(small_model(), tmp_path)
    edit_weights(tmp_path, change)
    with pytest.raises(DataError, match=WEIGHTS_FILE):
        load_model(tmp_path)


def test_a_pickle_in_place_of_the_weights_is_never_opened(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path)
    torch.save({"clean_head.weight": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    edit(tmp_path, weights_sha256=hashlib.sha256((tmp_path / WEIGHTS_FILE).read_bytes()).hexdigest())
    with pytest.raises(DataError, match="not a safetensors file"):
        load_model(tmp_path)


@pytest.mark.parametrize("missing", [JSON_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    save_model(small_model(), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=missing):
        load_model(tmp_path)
