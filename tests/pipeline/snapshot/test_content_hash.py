"""The digest of a table depends on its values alone."""

import hashlib
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.snapshot.content_hash import add_table

ROW = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("bytes", pa.binary()),
        pa.field("number", pa.int64()),
        pa.field("share", pa.float64()),
        pa.field("flag", pa.bool_()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("votes", pa.list_(pa.struct([pa.field("who", pa.string()), pa.field("what", pa.string())]))),
    ]
)
vote = st.fixed_dictionaries({"who": st.text(max_size=3), "what": st.none() | st.text(max_size=3)})
rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=4),
            "bytes": st.none() | st.binary(max_size=4),
            "number": st.none() | st.integers(-3, 3),
            "share": st.none() | st.sampled_from([0.0, 0.5, 2.0]),
            "flag": st.none() | st.booleans(),
            "time": st.none() | st.integers(0, 3),
            "votes": st.none() | st.lists(vote, max_size=3),
        }
    ),
    max_size=5,
)


def digest(table: pa.Table) -> str:
    found = hashlib.sha256()
    add_table(found, table)
    return found.hexdigest()


@settings(deadline=None)
@given(rows, rows)
def test_equal_tables_and_only_they_have_equal_digests(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    first, second = (pa.Table.from_pylist(each, schema=ROW) for each in (one, other))
    assert (digest(first) == digest(second)) == first.equals(second)


@settings(deadline=None)
@given(rows, rows)
def test_the_layout_in_memory_does_not_count(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=ROW)
    sliced = pa.Table.from_pylist([*before, *rows, *before], schema=ROW).slice(len(before), len(rows))
    chunked = pa.concat_tables([table.slice(0, len(rows) // 2), table.slice(len(rows) // 2)])
    assert digest(table) == digest(sliced) == digest(chunked)


def test_what_lies_under_a_null_does_not_count() -> None:
    mask = pa.array([False, True])
    numbers = [pa.array([1, under]).filter(pa.array([True, True])) for under in (7, 8)]
    hidden = [pa.compute.if_else(mask, pa.scalar(None, pa.int64()), array) for array in numbers]
    assert digest(pa.table({"a": hidden[0]})) == digest(pa.table({"a": hidden[1]}))


@pytest.mark.parametrize(
    ("one", "other"), [(["ab", "c"], ["a", "bc"]), (["", None], [None, ""]), ([["a"], []], [[], ["a"]])]
)
def test_where_one_value_ends_counts(one: list[Any], other: list[Any]) -> None:
    assert digest(pa.table({"a": one})) != digest(pa.table({"a": other}))
