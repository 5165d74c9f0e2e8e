"""What an inline Parquet file says of a sample beside its label: how it came to be audited, and who had said what."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fasten_model.errors import DataError
from fasten_model.images.parquet import read_labels, read_samples
from tests.fasten_model.inline_files import png, said, write

Read = Callable[[Path], object]
EITHER: list[Read] = [
    lambda path: read_samples(path, size=4, audited=True),
    lambda path: read_labels(path, audited=True),
]
either = pytest.mark.parametrize("read", EITHER, ids=["samples", "labels"])


def test_only_what_was_drawn_at_random_estimates(tmp_path: Path) -> None:
    kinds = ["audit", "review", "review", "audit"]
    columns = {"label": ["x", "y", None, "y"], "provenance": kinds}
    path = write(tmp_path / "clean", columns)
    assert read_samples(path, size=4, audited=True).estimates.tolist() == [True, False, True]
    assert [row.estimates for row in read_labels(path, audited=True).rows] == [True, False, True]
    packed = write(path, {**columns, "provenance": pa.array(kinds).dictionary_encode()})
    assert read_samples(packed, size=4, audited=True).estimates.tolist() == [True, False, True]


def test_without_the_column_and_in_a_file_that_nobody_audited_everything_estimates(tmp_path: Path) -> None:
    columns = {"label": ["x", "y"]}
    assert read_samples(write(tmp_path / "clean", columns), size=4, audited=True).estimates.all()
    noisy = write(tmp_path / "noisy", {**columns, "provenance": ["the web", None]})
    assert read_samples(noisy, size=4).estimates.all()


@either
@pytest.mark.parametrize("word", ["Audit", "", None, "random"])
def test_another_word_is_one_line_that_names_the_row(tmp_path: Path, read: Read, word: str | None) -> None:
    provenance = ["audit"] * 70_001 + [word, "review"]
    images = [None] * len(provenance)
    path = write(tmp_path / "clean", {"label": ["x"] * len(provenance), "provenance": provenance, "image": images})
    with pytest.raises(DataError, match=rf"column provenance must hold .*, found {word!r} in row 70001 \(the first is"):
        read(path)


@either
def test_provenance_of_another_type_is_one_line(tmp_path: Path, read: Read) -> None:
    path = write(tmp_path / "clean", {"label": ["x", "y"], "provenance": [1, 0]})
    with pytest.raises(DataError, match="column provenance must hold strings, found int64"):
        read(path)
    with pytest.raises(DataError, match=r"column provenance must hold .*, found None in row 0"):
        read(write(path, {"label": ["x", "y"], "provenance": [None, None]}))


def test_votes_are_those_of_the_rows_that_can_be_used(tmp_path: Path) -> None:
    votes = [said("ann=x"), said("ann=y"), said("ann=x", "bob=y"), None]
    images = [png(), b"broken", png(), png()]
    path = write(tmp_path / "noisy", {"label": ["x", "x", "y", "y"], "votes": votes, "image": images})
    found = read_samples(path, size=4).votes
    assert found is not None
    assert found.to_pylist() == [votes[0], votes[2], None]
    assert read_samples(write(path, {"label": ["x", "y"]}), size=4).votes is None


@pytest.mark.parametrize(
    "votes",
    [[3, 5], [["x"], ["y"]], [[{"annotator": "ann", "label": 1}], []], [[{"who": "ann", "label": "x"}], []], [[], []]],
    ids=["numbers", "no annotators", "labels that are numbers", "other names", "all empty"],
)
def test_a_column_that_is_only_called_votes_is_not_used_and_that_is_said_once(
    tmp_path: Path, votes: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "noisy", {"label": ["x", "y"], "votes": pa.array(votes)})
    read_labels(path)
    assert read_samples(path, size=4).votes is None
    assert len(caplog.messages) == 1
    assert f"{path}: column votes is not used: it holds {pq.read_schema(path).field('votes').type}," in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


@either
@pytest.mark.parametrize("field", ["annotator", "label"])
def test_votes_that_are_not_utf_8_are_one_line_with_their_row(tmp_path: Path, read: Read, field: str) -> None:
    texts = {"annotator": ["ann", "bob", "cyd"], "label": ["x", "y", "x"]}
    columns = [pa.array(values, pa.string()) for values in texts.values()]
    raw = pa.array([b"x", b"x", b"caf\xe9"], pa.binary())
    columns[list(texts).index(field)] = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    votes = pa.ListArray.from_arrays(pa.array([0, 1, 1, 3]), pa.StructArray.from_arrays(columns, names=list(texts)))
    path = write(tmp_path / "noisy", {"label": ["x", "y", "x"], "votes": votes})
    with pytest.raises(DataError, match=rf"column votes must hold UTF-8 text, found {field} b'caf.xe9' in row 2 "):
        read(path)


@either
@pytest.mark.parametrize("name", ["others", "others/1", "others/"])
def test_an_annotator_called_as_those_who_are_not_known_is_one_line(tmp_path: Path, read: Read, name: str) -> None:
    path = write(tmp_path / "noisy", {"label": ["x"], "votes": [said(f"{name}=x")]})
    with pytest.raises(DataError, match=f"an annotator in column votes is called '{name}'; .*: write another name"):
        read(path)
    assert pq.read_metadata(write(path, {"label": ["x"], "votes": [said("otherside=x")]})).num_rows == 1
    read(path)
