"""Scores as files, and as what triage sees."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.schema import SCORES
from pipeline.scoring import candidates, decisions_of, is_scores_file, read_scores, write_scores


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


def test_a_candidate_carries_its_image_and_what_the_reviewer_is_offered() -> None:
    table = rows({"sample_id": "b", "model_label": "cow", "model_label_probability": 0.4})
    [candidate] = candidates(table, {"b": "/data/b.png", "a": "/data/a.png"})
    assert (candidate.sample_id, candidate.image_url) == ("b", "/data/b.png")
    assert (candidate.model_label, candidate.model_label_probability) == ("cow", 0.4)
    assert (candidate.given_label, candidate.decision, candidate.priority) == ("cat", "relabel", 0.05)
