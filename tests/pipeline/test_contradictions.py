"""Decisions of people against the model: the order, the probability, and what each row carries."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from fasten_model.labelled import LabelledImages
from fasten_model.model import Model
from fasten_model.network import TwoHeadNetwork
from pipeline.contradictions import CONTRADICTIONS, contradictions, contradictions_known, write_contradictions
from pipeline.errors import DataError
from pipeline.records import AskedAs, ReviewTask
from pipeline.schema import CLEAN
from pipeline.trail import append_asked
from pipeline.workspace import Workspace

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Brightness(nn.Module):
    """Images [B,3,S,S] → log-odds that they are bright, [B,1]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))[:, None]


@pytest.fixture
def model() -> Model:
    """Class 1 is bright; half of the brightest says nothing, and annotators are right in four of five cases."""
    network = TwoHeadNetwork(Brightness(), 1, 2)
    with torch.no_grad():
        network.clean_head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        network.clean_head.bias.zero_()
    transition = torch.tensor([[0.8, 0.2], [0.2, 0.8]])
    return Model(
        network=network.eval(), classes=("dark", "bright"), preset="small", image_size=8, temperature=1.0,
        transition=transition, rho=2.0,
    )  # fmt: skip


def decided(labels: list[int], given: list[int], brightness: list[int]) -> tuple[LabelledImages, pa.Table]:
    count = len(labels)
    clean = LabelledImages.from_tensors(
        torch.tensor(brightness, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(count, 3, 8, 8).clone(),
        torch.tensor(labels),
        given_labels=torch.tensor(given),
    )
    rows: list[dict[str, Any]] = [
        {
            "sample_id": str(i), "image_sha256": "0", "image_url": None if i == 0 else f"/data/{i}.png",
            "label": "dark", "given_label": None, "votes": [], "provenance": "audit" if i == 0 else "review",
            "auditor": f"user:{i}", "audited_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
        for i in reversed(range(count))
    ]  # fmt: skip
    return clean, pa.Table.from_pylist(rows, schema=CLEAN)


def test_the_most_contradicted_decision_comes_first_with_what_is_known_of_it(model: Model) -> None:
    clean, rows = decided([1, 0, 0, 1], [-1, -1, -1, -1], [250, 250, 5, 5])
    found = contradictions(model, clean, rows, model_version="m/1").to_pylist()
    assert {row["sample_id"] for row in found[:2]} == {"1", "3"}
    assert [row["sample_id"] for row in found] == sorted(
        "0123", key=lambda i: -next(row["error_probability"] for row in found if row["sample_id"] == i)
    )
    [contradicted] = [row for row in found if row["sample_id"] == "1"]
    shown = ("image_url", "label", "provenance", "auditor", "model_label", "model_version")
    assert [contradicted[name] for name in shown] == ["/data/1.png", "dark", "review", "user:1", "bright", "m/1"]
    [agreed] = [row for row in found if row["sample_id"] == "0"]
    assert (agreed["model_label"], agreed["provenance"], agreed["image_url"]) == ("bright", "audit", None)
    assert agreed["error_probability"] < 0.01


@pytest.mark.parametrize("given", [-1, 0, 1])
def test_a_decision_is_one_more_opinion_beside_image_and_annotator(model: Model, given: int) -> None:
    clean, rows = decided([0], [given], [200])
    [row] = contradictions(model, clean, rows, model_version="m", person_right=0.9).to_pylist()
    dark, bright = model.predict_probabilities(clean.images)[0].double().tolist()
    if given >= 0:
        dark, bright = dark * model.transition[0, given].item(), bright * model.transition[1, given].item()
    assert row["probability"] == pytest.approx(max(dark, bright) / (dark + bright))
    assert row["error_probability"] == pytest.approx(0.1 * bright / (0.1 * bright + 0.9 * dark))


def test_an_annotator_who_had_said_the_same_as_the_model_makes_it_worse(model: Model) -> None:
    clean, rows = decided([0, 0], [1, 0], [200, 200])
    found = contradictions(model, clean, rows, model_version="m").to_pylist()
    assert [row["sample_id"] for row in found] == ["0", "1"]


def test_no_decisions_are_no_rows(model: Model) -> None:
    clean, rows = decided([0], [0], [200])
    found = contradictions(model, clean.at(torch.tensor([False])), rows.slice(0, 0), model_version="m")
    assert (len(found), found.schema) == (0, CONTRADICTIONS)


def review(sample: str, label: str, model_label: str, probability: float, provenance: str = "review") -> dict[str, Any]:
    plain = {"image_url": "/x.png", "auditor": "user:1", "error_probability": 0.1, "model_version": "m/2"}
    said = {"label": label, "model_label": model_label, "probability": probability, "provenance": provenance}
    return {"sample_id": sample, **plain, **said}


def question(sample: str, suggestion: str, confidence: float, kind: AskedAs = "targeted") -> ReviewTask:
    return ReviewTask(
        push_key=f"{sample} {kind}", sample_id=sample, image_url="/x.png", asked_as=kind, current_label="dark",
        model_label=suggestion, confidence=confidence, reason="", priority=0.5, model_version="m/1",
    )  # fmt: skip


def test_a_review_that_the_model_has_learnt_since_is_contradicted_by_what_it_said_when_it_asked(tmp_path: Path) -> None:
    rows = [
        review("learnt", "dark", "dark", 0.9),
        review("said so", "bright", "bright", 0.9),
        review("still", "dark", "bright", 0.99),
        review("rechecked", "dark", "dark", 0.9),
        review("audited", "dark", "dark", 0.9, "audit"),
        review("never asked", "dark", "dark", 0.9),
    ]
    write_contradictions(pa.Table.from_pylist(rows, schema=CONTRADICTIONS), tmp_path / "scores.parquet")
    workspace = Workspace(folder=tmp_path)
    asked = [question(row["sample_id"], "bright", 0.97) for row in rows[:5]]
    append_asked(workspace, "run-1", [*asked, question("rechecked", "bright", 0.97, "recheck")], at=NOON)
    found = {row["sample_id"]: row for row in contradictions_known(tmp_path / "scores.parquet", workspace)}
    said = {sample: (row["model_label"], row["probability"], row["model_version"]) for sample, row in found.items()}
    assert said["learnt"] == ("bright", 0.97, "m/1")
    assert found["learnt"]["error_probability"] == pytest.approx(0.05 * 0.97 / (0.05 * 0.97 + 0.95 * 0.03))
    assert said["still"] == ("bright", 0.99, "m/2"), "what it says now is stronger"
    for sample in ("said so", "rechecked", "audited", "never asked"):
        assert said[sample][1:] == (0.9, "m/2")


@pytest.mark.parametrize(("earlier", "later"), [("a", "b"), ("b", "a")])
def test_a_question_that_was_changed_counts_as_it_was_changed_whatever_the_runs_are_called(
    tmp_path: Path, earlier: str, later: str
) -> None:
    workspace = Workspace(folder=tmp_path)
    rows = [review("s", "dark", "dark", 0.9)]
    write_contradictions(pa.Table.from_pylist(rows, schema=CONTRADICTIONS), tmp_path / "scores.parquet")
    append_asked(workspace, earlier, [question("s", "bright", 0.97)], at=NOON)
    append_asked(workspace, later, [question("s", "dark", 0.97)], at=NOON.replace(hour=13), event="update")
    [found] = contradictions_known(tmp_path / "scores.parquet", workspace)
    assert found["model_label"] == "dark", "the person took what was suggested then"


def test_runs_of_earlier_versions_have_no_contradictions(tmp_path: Path) -> None:
    assert contradictions_known(tmp_path / "scores.parquet", Workspace(folder=tmp_path)) == []


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "contradictions.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"contradictions\.parquet is not a readable Parquet file"):
        contradictions_known(tmp_path / "scores.parquet", Workspace(folder=tmp_path))
