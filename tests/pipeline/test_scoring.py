"""Scores as files, and as what triage sees."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fasten_model.labelled import LabelledImages
from fasten_model.model import Model
from fasten_model.network import build_network
from fasten_model.relabel import NEVER
from fasten_model.stacking import Weights
from fasten_model.visited import Visited
from pipeline.errors import DataError
from pipeline.schema import SCORES
from pipeline.scoring import (
    decisions_of,
    features_path,
    is_scores_file,
    read_features,
    read_scores,
    score,
    write_features,
    write_scores,
)


def rows(*changes: dict[str, Any]) -> pa.Table:
    plain: dict[str, Any] = {
        "sample_id": "a", "given_label": "cat", "suggested_label": "dog", "model_label": "dog",
        "model_label_probability": 0.9, "confidence": 0.9, "given_label_probability": 0.05, "error_probability": 0.95,
        "posterior": [0.05, 0.95], "decision": "relabel", "priority": 0.05, "model_version": "model@1",
    }  # fmt: skip
    return pa.Table.from_pylist([plain | change for change in changes], schema=SCORES)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    table = rows({}, {"sample_id": "b", "decision": "keep"})
    write_scores(table, tmp_path / "new" / "scores.parquet")
    assert read_scores(tmp_path / "new" / "scores.parquet").equals(table)
    assert decisions_of(table) == ["relabel", "keep"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scores.parquet"]


def test_further_columns_do_no_harm_and_are_not_passed_on(tmp_path: Path) -> None:
    table = rows({})
    pq.write_table(table.append_column("note", pa.array(["mine"])), tmp_path / "s.parquet")
    assert is_scores_file(tmp_path / "s.parquet")
    assert read_scores(tmp_path / "s.parquet").column_names == SCORES.names


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist: score the labels first"),
        (b"sample_id,decision\n", "is not a readable Parquet file"),
        (pa.table({"sample_id": ["a"], "image": ["x"], "label": ["cat"]}), "no scores file: it has no column"),
    ],
    ids=["missing", "csv", "labels"],
)
def test_what_is_no_scores_file_is_one_line(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "scores.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        pq.write_table(content, path)
    assert not is_scores_file(path)
    with pytest.raises(DataError, match=says) as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(
        network=build_network("small", 3, image_size=16).eval(),
        classes=("a", "b", "c"),
        preset="small",
        image_size=16,
        temperature=0.01,
        transition=0.4 * torch.eye(3) + 0.2,
        rho=0.0,
    )


@pytest.fixture
def noisy() -> LabelledImages:
    generator = torch.Generator().manual_seed(1)
    return LabelledImages.from_tensors(
        torch.randint(256, (30, 3, 16, 16), dtype=torch.uint8, generator=generator), torch.arange(30) % 3
    )


def test_the_priority_is_what_a_review_sets_right_in_the_mode_at_hand(model: Model, noisy: LabelledImages) -> None:
    suggest, auto = (
        score(model, noisy, target_precision=0.95, model_version="m", mode=mode).table.to_pylist()
        for mode in ("suggest", "auto")
    )
    assert {row["decision"] for row in auto} >= {"relabel"}
    for one, other in zip(suggest, auto, strict=True):
        assert one["priority"] == one["error_probability"]
        changed = other["decision"] == "relabel"
        left = 1 - other["model_label_probability"] if changed else other["error_probability"]
        assert other["priority"] == pytest.approx(left)
        assert one | {"priority": 0} == other | {"priority": 0}, "nothing else depends on the mode"


def test_samples_that_trained_the_model_are_judged_by_their_visits(model: Model, noisy: LabelledImages) -> None:
    means = torch.log_softmax(5.0 * torch.nn.functional.one_hot((noisy.labels + 1) % 3, 3), dim=1)
    weights = Weights(network=0.0, visits=1.0, evidence=0.0)
    visited = Visited.of(noisy.sample_ids[:10], noisy.labels[:10], noisy.images[:10], means[:10], weights)
    rows = score(replace(model, visited=visited), noisy, target_precision=0.95, model_version="m").table.to_pylist()
    others = score(model, noisy, target_precision=0.95, model_version="m").table.to_pylist()
    for number, (row, other) in enumerate(zip(rows, others, strict=True)):
        if number < 10:
            assert row["model_label"] == model.classes[(number + 1) % 3]
            assert row["error_probability"] == pytest.approx(1 - means[number].exp()[number % 3].item(), abs=1e-3)
            assert row["confidence"] == other["confidence"]
        else:
            assert row == other


def test_features_lie_beside_the_scores_a_row_for_each(model: Model, noisy: LabelledImages, tmp_path: Path) -> None:
    scored = score(model, noisy, target_precision=0.95, model_version="m", rho=NEVER)
    path = features_path(tmp_path / "run" / "scores.parquet")
    write_features(scored.features, path)
    found = read_features(path, rows=30)
    assert found is not None
    assert found.dtype == np.float16
    assert np.array_equal(found, scored.features.numpy())
    assert np.linalg.norm(found.astype(np.float32), axis=1) == pytest.approx(np.ones(30), abs=2e-3)
    assert [file.name for file in path.parent.iterdir()] == ["features.npy"]
    assert read_features(tmp_path / "features.npy", rows=30) is None


@pytest.mark.parametrize("rows", [29, 31])
def test_features_of_other_samples_are_refused(tmp_path: Path, rows: int) -> None:
    write_features(torch.zeros(30, 4, dtype=torch.float16), tmp_path / "features.npy")
    with pytest.raises(DataError, match=f"does not hold the features of {rows} samples: score again"):
        read_features(tmp_path / "features.npy", rows=rows)


def test_what_is_no_features_file_is_one_line_and_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    for content in (b"", b"no numbers", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a readable NumPy file"):
            read_features(path, rows=1)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="is not a readable NumPy file"):
        read_features(path, rows=1)
    np.save(path, np.zeros((1, 3)))
    with pytest.raises(DataError, match="does not hold the features of 1 samples"):
        read_features(path, rows=1)
