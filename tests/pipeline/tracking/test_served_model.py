"""The file that MLflow runs to load the model."""

import io
from pathlib import Path
from types import SimpleNamespace

import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image

from fasten_model.model import Model, save_model
from fasten_model.network import build_network
from pipeline.tracking import package  # imports mlflow.pyfunc with its own warnings silenced


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> object:
    from pipeline.tracking.served_model import ImageClassifier

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model")
    model = Model(
        network=build_network("small", 3).eval(),
        classes=("a", "b", "c"),
        preset="small",
        image_size=16,
        temperature=1.0,
        transition=torch.eye(3),
        rho=0.8,
    )
    save_model(model, folder)
    classifier = ImageClassifier()
    classifier.load_context(SimpleNamespace(artifacts={"weights": str(folder / "model.safetensors")}))  # type: ignore[arg-type]
    return classifier


def image(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (20, 16), grey).save(buffer, "PNG")
    return buffer.getvalue()


def test_long_requests_are_answered_in_chunks_in_their_order(served: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tracking import served_model

    table = pd.DataFrame({"image": [image(grey) for grey in (0, 60, 120, 180, 240)]}, index=[9, 8, 7, 6, 5])
    whole = served.predict(None, table)  # type: ignore[attr-defined]
    monkeypatch.setattr(served_model, "IMAGES_AT_ONCE", 2)
    chunked = served.predict(None, table)  # type: ignore[attr-defined]
    assert list(chunked.index) == [9, 8, 7, 6, 5]
    assert list(chunked["label"]) == list(whole["label"])
    for one, other in zip(whole["probabilities"], chunked["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
        assert sum(one.values()) == pytest.approx(1, abs=1e-5)
        assert list(one) == ["a", "b", "c"]


def test_no_image_gives_no_row(served: object) -> None:
    answer = served.predict(None, pd.DataFrame({"image": []}))  # type: ignore[attr-defined]
    assert list(answer.columns) == ["label", "probabilities"]
    assert len(answer) == 0


def test_requirements_are_pinned_to_versions_an_index_has() -> None:
    for requirement in package.pip_requirements():
        name, _, version = requirement.partition("==")
        assert name
        assert version
        assert "+" not in version


def test_a_trunk_from_timm_needs_timm_where_it_is_served() -> None:
    assert [line for line in package.pip_requirements("timm:test_resnet") if line.startswith("timm==")]
    assert not [line for line in package.pip_requirements("small") if line.startswith("timm")]


def test_the_served_file_imports_only_what_the_model_brings_along() -> None:
    source = (Path(package.__file__).parent / "served_model.py").read_text()
    imports = [line for line in source.splitlines() if line.startswith(("from ", "import "))]
    assert {line.split()[1].split(".")[0] for line in imports} == {
        "pathlib",
        "typing",
        "pandas",
        "mlflow",
        "fasten_model",
    }
