"""Votes as a table: who has a column of their own, and where each vote goes."""

from collections.abc import Callable

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasten_model.votes import (
    LEAST_VOTES,
    MOST_ANNOTATORS,
    MOST_OTHERS,
    OTHERS,
    columns_of,
    count_unknown,
    count_votes,
    majority,
    vote_table,
)

CLASSES = ("cat", "dog")
VOTES = pa.list_(pa.struct([("annotator", pa.string()), ("label", pa.string())]))
Votes = list[list[tuple[str, str]]]
ANNOTATORS = [f"user:{number}" for number in range(5)]
votes_of_samples = st.lists(
    st.dictionaries(st.sampled_from(ANNOTATORS), st.sampled_from(CLASSES)).map(lambda said: sorted(said.items()))
)


def column(samples: Votes) -> pa.ChunkedArray:
    rows = [[{"annotator": name, "label": label} for name, label in said] for said in samples]
    return pa.chunked_array([pa.array(rows, VOTES)])


@given(votes_of_samples)
def test_every_vote_of_a_named_annotator_is_in_their_column(samples: Votes) -> None:
    found = vote_table(column(samples), ANNOTATORS, CLASSES).tolist()
    for row, said in zip(found, samples, strict=True):
        answers = {name: CLASSES[place] for name, place in zip(ANNOTATORS, row, strict=True) if place >= 0}
        assert answers == dict(said)


@given(votes_of_samples, st.integers(0, 3))
def test_the_others_share_columns_and_none_of_their_votes_is_counted_twice(samples: Votes, shared: int) -> None:
    own = ["user:1", "user:3"]
    columns = [*own, *(f"{OTHERS}{number}" for number in range(shared))]
    for row, said in zip(vote_table(column(samples), columns, CLASSES).tolist(), samples, strict=True):
        others = [CLASSES.index(label) for name, label in said if name not in own]
        assert [place for place in row[2:] if place >= 0] == others[:shared]
        assert [place >= 0 for place in row[:2]] == [name in dict(said) for name in own]


def test_a_vote_for_an_unknown_class_is_none_and_chunks_are_one_column() -> None:
    parts = column([[("user:1", "eel"), ("user:2", "dog")], []]), column([[("user:2", "cat")]])
    joined = pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    assert vote_table(joined, ("user:1", "user:2"), CLASSES).tolist() == [[-1, 1], [-1, -1], [-1, 0]]


def test_those_with_few_votes_share_columns_and_the_busiest_have_their_own() -> None:
    few = {f"few:{number}": LEAST_VOTES - 1 for number in range(MOST_OTHERS + 3)}
    others = tuple(f"{OTHERS}{number}" for number in range(1, MOST_OTHERS + 1))
    assert columns_of({"b": LEAST_VOTES, "a": 500, **few}) == ("a", "b", *others)
    assert columns_of({"b": LEAST_VOTES, "a": 500, "c": 1}) == ("a", "b", f"{OTHERS}1")
    assert columns_of({}) == ()
    many = {f"user:{number:03}": 1000 - number for number in range(MOST_ANNOTATORS + 9)}
    assert columns_of(many) == (*sorted(many)[:MOST_ANNOTATORS], *others)


def test_a_model_tells_those_apart_that_it_knows_whatever_the_numbers_of_votes() -> None:
    assert columns_of({"new": 500, "b": 1}, ["b", "a", f"{OTHERS}1"]) == ("b", "a", f"{OTHERS}1")
    assert columns_of({"b": 1}, ["b", "a", f"{OTHERS}1"]) == ("b", "a")


def test_votes_are_counted_over_all_columns() -> None:
    assert count_votes([column([[("a", "cat"), ("b", "dog")]]), column([[("a", "dog")], []])]) == {"a": 2, "b": 1}
    assert count_votes([]) == {}


@pytest.mark.parametrize("text", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list], ids=["list", "large list"])
def test_what_lacks_an_annotator_or_a_label_is_no_vote_however_it_is_stored(
    lists: Callable[[pa.DataType], pa.DataType], text: pa.DataType
) -> None:
    ann, nobody, nothing = (
        {"annotator": name, "label": label} for name, label in (("ann", "dog"), (None, "cat"), ("ann", None))
    )
    kind = lists(pa.struct([("annotator", text), ("label", text)]))
    votes = pa.chunked_array([pa.array([[nobody, None, ann], None, [nothing]], kind)])
    assert count_votes([votes]) == {"ann": 1}
    assert vote_table(votes, ["ann", f"{OTHERS}1"], CLASSES).tolist() == [[1, -1], [-1, -1], [-1, -1]]


def test_votes_for_other_classes_are_counted() -> None:
    assert count_unknown(column([[("a", "eel"), ("b", "dog")], [("a", "fox")]]), CLASSES) == 2


def test_the_majority_is_the_class_with_most_votes_and_nothing_where_two_have_as_many() -> None:
    votes = torch.tensor([[1, 1, 0], [0, 1, -1], [-1, -1, -1], [-1, 2, -1]])
    assert majority(votes, 3).tolist() == [1, -1, -1, 2]


def test_of_an_annotators_votes_of_one_sample_the_last_counts_and_once() -> None:
    said = column([[("z", "dog"), ("x", "cat"), ("x", "dog"), ("x", "cat")], [("ann", "cat"), ("ann", "dog")], []])
    assert count_votes([said]) == {"z": 1, "x": 1, "ann": 1}
    columns = ("ann", f"{OTHERS}1", f"{OTHERS}2")
    assert vote_table(said, columns, CLASSES).tolist() == [[-1, 0, 1], [1, -1, -1], [-1, -1, -1]]


@given(
    st.lists(st.lists(st.tuples(st.sampled_from(ANNOTATORS), st.sampled_from((*CLASSES, "eel"))))), st.integers(0, 3)
)
def test_a_table_of_any_votes_is_that_of_the_last_ones_by_name(samples: Votes, shared: int) -> None:
    columns = ["user:1", "user:3", *(f"{OTHERS}{number}" for number in range(shared))]
    last = [sorted(dict(said).items()) for said in samples]
    assert vote_table(column(samples), columns, CLASSES).equal(vote_table(column(last), columns, CLASSES))
    assert count_votes([column(samples)]) == count_votes([column(last)])
