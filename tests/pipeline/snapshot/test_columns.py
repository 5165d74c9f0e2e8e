"""Rows become the very table that pyarrow makes of them, however their values are given."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.schema import LABELS, UNDECIDED
from pipeline.snapshot.columns import to_arrow

SCHEMA = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("number", pa.int64()),
        pa.field("share", pa.float64()),
        pa.field("flag", pa.bool_()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("votes", pa.list_(pa.struct([pa.field("who", pa.string()), pa.field("what", pa.string())]))),
    ]
)
zones = st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30)), timezone(timedelta(hours=14))])
times = st.datetimes(datetime(1905, 1, 1), datetime(2200, 1, 1), timezones=zones)  # noqa: DTZ001
rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=4),
            "number": st.none() | st.integers(-3, 3),
            "share": st.none() | st.floats(allow_nan=False),
            "flag": st.none() | st.booleans(),
            "time": st.none() | times,
            "votes": st.none() | st.lists(st.fixed_dictionaries({"who": st.text(max_size=2), "what": st.none()})),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)
@given(rows)
def test_rows_make_the_table_that_pyarrow_makes(rows: list[dict[str, Any]]) -> None:
    expected = pa.Table.from_pylist(rows, schema=SCHEMA)
    assert to_arrow(rows, SCHEMA).equals(expected)
    assert to_arrow([tuple(row[name] for name in SCHEMA.names) for row in rows], SCHEMA).equals(expected)


def test_names_decide_and_not_the_order_of_a_rows_values() -> None:
    row = {"share": 0.5, "votes": [], "time": None, "number": 1, "text": "a", "flag": True}
    assert to_arrow([row], SCHEMA).to_pylist() == [row]


@pytest.mark.parametrize("schema", [LABELS, UNDECIDED])
def test_a_row_that_lacks_a_column_is_refused(schema: pa.Schema) -> None:
    with pytest.raises(KeyError):
        to_arrow([dict.fromkeys(schema.names[1:])], schema)
    for width in (len(schema) - 1, len(schema) + 1):
        with pytest.raises(ValueError, match=f"{width} values, its table has {len(schema)} columns"):
            to_arrow([(None,) * width], schema)
