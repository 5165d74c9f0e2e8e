"""Inline Parquet files of small grey images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VOTES = pa.list_(pa.struct([("annotator", pa.string()), ("label", pa.string())]))


def png(grey: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, "PNG")
    return buffer.getvalue()


def said(*votes: str) -> list[dict[str, str]]:
    """`ann=cat` is ann's vote for cat."""
    return [dict(zip(("annotator", "label"), vote.split("="), strict=True)) for vote in votes]


def write(path: Path, columns: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None) -> Path:
    """These columns with an image in every row, of the shade of its number unless they are given."""
    count = len(next(iter(columns.values())))
    filled: dict[str, Any] = {"sample_id": [f"{path.stem}-{row}" for row in range(count)], **columns}
    images: Sequence[bytes | None] = filled.pop("image", None) or [png(row % 256) for row in range(count)]
    filled["image"] = pa.array([None if data is None else {"bytes": data, "path": None} for data in images], IMAGE)
    if "votes" in filled and not isinstance(filled["votes"], pa.Array):
        filled["votes"] = pa.array(filled["votes"], VOTES)
    pq.write_table(pa.table(filled).replace_schema_metadata(metadata), path)
    return path
