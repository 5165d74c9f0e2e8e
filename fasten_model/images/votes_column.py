"""The column `votes` of an inline Parquet file: list<struct<annotator: string, label: string>>, who had said what."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fasten_model.errors import DataError
from fasten_model.images.columns import bad_text, is_text
from fasten_model.label_noise import OTHERS as ANYBODY
from fasten_model.votes import OTHERS, flat


def read_votes(path: Path, file: pq.ParquetFile) -> pa.ChunkedArray | None:
    """All of it; None where there is no such column, or it is of another type, and so something else by that name.

    Raises `DataError` where a text is not UTF-8, or an annotator has a name that stands for several.
    """
    schema = file.schema_arrow
    if "votes" not in schema.names or not _are_votes(schema.field("votes").type):
        return None
    votes = file.read(columns=["votes"])["votes"]
    rows, *fields = flat(votes)
    for name, values in zip(("annotator", "label"), fields, strict=True):
        bad = bad_text(values)
        if bad is not None:
            place, found = bad
            raise DataError(
                f"{path}: column votes must hold UTF-8 text, found {name} {found!r} in row {rows[place]} (the first "
                "is 0); write the file anew with its text decoded as what it is, say latin-1"
            )
    for name in pc.unique(fields[0]).to_pylist():
        if name == ANYBODY or name.startswith(OTHERS):
            raise DataError(
                f"{path}: an annotator in column votes is called {name[:40]!r}; “{ANYBODY}” and what begins with "
                f"“{OTHERS}” stand for all who are not known: write another name"
            )
    return votes


def _are_votes(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    vote = kind.value_type
    places = [vote.get_field_index(name) for name in ("annotator", "label")]
    return all(place >= 0 and is_text(vote.field(place).type) for place in places)
