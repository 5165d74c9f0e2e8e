"""What training made of its samples, kept with the model: found again for the same sample only, and nothing damaged."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fasten_model.errors import DataError
from fasten_model.model import JSON_FILE, VISITS_FILE, Model, load_model, save_model
from fasten_model.scoring import score
from fasten_model.stacking import Weights, stacked
from fasten_model.visited import KEYED_BY, Visited
from tests.fasten_model.small_models import edit, small_model


def with_visits() -> Model:
    means = -torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) * 5
    ids = [f"s-{number}" for number in range(40)]
    weights = Weights(network=0.2, visits=1.1, evidence=0.6)
    return replace(small_model(), visited=Visited.of(ids, torch.arange(40) % 3, some_images(40), means, weights))


def some_images(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_what_training_made_of_its_samples_travels_along_and_goes_with_the_next_model(tmp_path: Path) -> None:
    model = with_visits()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).visited
    assert model.visited is not None
    assert loaded is not None
    assert loaded.weights == model.visited.weights
    assert torch.equal(loaded.keys, model.visited.keys)
    assert torch.equal(loaded.means, model.visited.means)
    assert load_model(tmp_path, visits=False).visited is None
    (tmp_path / VISITS_FILE).unlink()  # as a registry's copy comes
    assert load_model(tmp_path).visited is None
    save_model(small_model(), tmp_path)
    assert load_model(tmp_path).visited is None
    assert not (tmp_path / VISITS_FILE).exists()


def test_a_sample_that_was_trained_on_is_judged_by_its_visits_and_no_other() -> None:
    """Also one whose label is another by now, and all of them where nobody says which they are."""
    model = with_visits()
    visited = model.visited
    assert visited is not None
    images = some_images(40)[[1, 2, 4]]
    given = torch.tensor([1, 2, 2])
    ids = ["s-1", "s-2", "s-4"]  # the last one had label 1
    unknown = score(model, images, given)
    known = score(model, images, given, sample_ids=ids)
    assert torch.equal(known.posterior[2], unknown.posterior[2])
    means = visited.find(ids, given, images)[1]
    log_p = torch.log_softmax(model.predict_logits(images).double(), dim=1)
    said = model.transition.double().log().t()[given]
    torch.testing.assert_close(known.posterior[:2], stacked(log_p, means, said, visited.weights)[:2])
    assert torch.equal(known.probabilities, unknown.probabilities), "p stays what the network says"
    with pytest.raises(DataError, match="sample_ids must be 3 texts, got 2"):
        score(model, images, given, sample_ids=ids[:2])


def test_another_set_with_the_same_ids_and_labels_is_judged_as_by_a_model_without_visits() -> None:
    model, ids, given = with_visits(), [f"s-{number}" for number in range(40)], torch.arange(40) % 3
    own, others = some_images(40), some_images(40, seed=1)
    without = replace(model, visited=None)
    assert not torch.equal(score(model, own, given, sample_ids=ids).posterior, score(without, own, given).posterior)
    assert torch.equal(score(model, others, given, sample_ids=ids).posterior, score(without, others, given).posterior)


@pytest.mark.parametrize("keyed_by", [{}, {"keyed_by": "something else"}, {"keyed_by": ["sample"]}])
def test_visits_whose_keys_are_of_another_form_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keyed_by: dict[str, Any]
) -> None:
    """The first ones were of sample and label alone, and their models said nothing of it."""
    save_model(with_visits(), tmp_path)
    known = json.loads((tmp_path / JSON_FILE).read_text())["visits"]
    edit(tmp_path, visits={name: known[name] for name in ("sha256", "weights")} | keyed_by)
    with caplog.at_level("INFO"):
        assert load_model(tmp_path).visited is None
    assert [record.levelname for record in caplog.records if VISITS_FILE in record.getMessage()] == ["INFO"]


@pytest.mark.parametrize(
    "damaged",
    [
        {"keys": torch.arange(40, 0, -1), "means": torch.zeros(40, 3).half()},
        {"keys": torch.arange(40), "means": torch.zeros(40, 3)},
        {"keys": torch.arange(40), "means": torch.zeros(39, 3).half()},
        {"keys": torch.arange(40), "means": torch.zeros(40, 4).half()},
        {"keys": torch.tensor(3), "means": torch.zeros(40, 3).half()},
        {"means": torch.zeros(40, 3).half()},
        {"keys": torch.arange(40), "means": torch.ones(40, 3).half()},
    ],
    ids=["order", "precision", "fewer", "classes", "scalar", "no keys", "no logarithms"],
)
def test_visits_that_do_not_fit_are_a_data_error(tmp_path: Path, damaged: dict[str, torch.Tensor]) -> None:
    save_model(with_visits(), tmp_path)
    save_file(damaged, tmp_path / VISITS_FILE)
    with pytest.raises(DataError, match="not the file that"):
        load_model(tmp_path)
    digest = hashlib.sha256((tmp_path / VISITS_FILE).read_bytes()).hexdigest()
    edit(tmp_path, visits={"sha256": digest, "weights": [0.5, 0.5, 0.75], "keyed_by": KEYED_BY})
    with pytest.raises(DataError, match="does not hold the visits of a model of 3 classes"):
        load_model(tmp_path)


def test_visits_of_a_type_that_nobody_computes_with_are_a_data_error(tmp_path: Path) -> None:
    save_model(with_visits(), tmp_path)
    save_file({"keys": torch.arange(40), "means": torch.zeros(40, 3).to(torch.float8_e4m3fn)}, tmp_path / VISITS_FILE)
    digest = hashlib.sha256((tmp_path / VISITS_FILE).read_bytes()).hexdigest()
    edit(tmp_path, visits={"sha256": digest, "weights": [0.5, 0.5, 0.75], "keyed_by": KEYED_BY})
    with pytest.raises(DataError, match=VISITS_FILE):
        load_model(tmp_path)
