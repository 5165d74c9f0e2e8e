"""Several networks as one: mean logits, one set of features, saved and loaded as a whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fasten_model.ensemble import Ensemble, members_of, together
from fasten_model.errors import DataError
from fasten_model.features import predict_with_features
from fasten_model.model import JSON_FILE, Model, load_model, save_model
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits

IMAGES = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def networks(count: int) -> list[TwoHeadNetwork]:
    """Of different weights."""
    return [build_network("small", 3, image_size=8).eval() for _ in range(count)]


def a_model(members: int) -> Model:
    return Model(
        network=together(networks(members)),
        classes=("a", "b", "c"),
        preset="small",
        image_size=8,
        temperature=1.5,
        transition=torch.eye(3),
        rho=0.9,
    )


def test_logits_are_means_so_that_probabilities_are_geometric_means() -> None:
    members = networks(3)
    found = predict_logits(Ensemble(members), IMAGES)
    each = [predict_logits(member, IMAGES) for member in members]
    for head in (0, 1):
        torch.testing.assert_close(found[head], torch.stack([pair[head] for pair in each]).mean(dim=0))
    product = torch.stack([torch.softmax(pair[0], dim=1) for pair in each]).prod(dim=0) ** (1 / 3)
    torch.testing.assert_close(torch.softmax(found[0], dim=1), product / product.sum(dim=1, keepdim=True))


def test_features_are_the_first_members_and_the_logits_everybodys() -> None:
    members = networks(2)
    logits, features = predict_with_features(Ensemble(members), IMAGES)
    torch.testing.assert_close(logits, predict_logits(Ensemble(members), IMAGES)[0])
    torch.testing.assert_close(features, predict_with_features(members[0], IMAGES)[1])


def test_one_network_is_itself_and_none_is_refused() -> None:
    (one,) = networks(1)
    assert together([one]) is one
    assert members_of(one) == 1
    with pytest.raises(DataError, match="at least one member"):
        Ensemble([])


def test_an_ensemble_is_saved_and_loaded_as_a_whole(tmp_path: Path) -> None:
    model = a_model(3)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert members_of(loaded.network) == 3
    torch.testing.assert_close(loaded.predict_probabilities(IMAGES), model.predict_probabilities(IMAGES))
    assert json.loads((tmp_path / JSON_FILE).read_text())["members"] == 3


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (0, "'members' must be a whole number from 1 to 20"),
        (21, "'members' must be a whole number from 1 to 20"),
        (True, "'members' must be a whole number from 1 to 20"),
        ("3", "'members' must be a whole number from 1 to 20"),
        (2, "tensors do not fit trunk and classes"),
        (1, "tensors do not fit trunk and classes"),
    ],
)
def test_another_number_of_members_is_one_line(tmp_path: Path, members: Any, says: str) -> None:
    save_model(a_model(3), tmp_path)
    description = json.loads((tmp_path / JSON_FILE).read_text())
    (tmp_path / JSON_FILE).write_text(json.dumps({**description, "members": members}))
    with pytest.raises(DataError, match=says):
        load_model(tmp_path)


def test_a_model_from_before_there_were_ensembles_has_one_network(tmp_path: Path) -> None:
    save_model(a_model(1), tmp_path)
    description = json.loads((tmp_path / JSON_FILE).read_text())
    del description["members"]
    (tmp_path / JSON_FILE).write_text(json.dumps({**description, "format": 2}))
    assert members_of(load_model(tmp_path).network) == 1


def test_means_are_taken_in_single_precision() -> None:
    members = networks(3)
    images = IMAGES.float().div(255)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clean, noisy = Ensemble(members)(images)
        logits, _ = Ensemble(members).with_features(images)
        expected = torch.stack([member(images)[0].float() for member in members]).mean(dim=0)
    assert clean.dtype == noisy.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(clean, expected)


def test_members_that_are_not_there_cost_nothing_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fasten_model import model

    save_model(a_model(2), tmp_path)
    description = json.loads((tmp_path / JSON_FILE).read_text())
    (tmp_path / JSON_FILE).write_text(json.dumps({**description, "members": 20}))
    built: list[str] = []

    def build(*args: Any, **choices: Any) -> TwoHeadNetwork:
        built.append("one")
        return build_network(*args, **choices)

    monkeypatch.setattr(model, "build_network", build)
    with pytest.raises(DataError, match="tensors do not fit"):
        load_model(tmp_path)
    assert built == ["one"]
