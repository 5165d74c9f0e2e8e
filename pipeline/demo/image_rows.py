"""Parquet files with the image inline: the columns first, then the images of the chosen rows only."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fasten_model.images.label_values import are_indices, plain_label
from pipeline.demo.image_files import extension
from pipeline.errors import DataError

_BATCH_ROWS = 256


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as Parquet: {reason}") from error


def stated_classes(path: Path) -> tuple[str, ...] | None:
    """The class names in the schema's metadata (`classes`: a JSON list, or names between commas), if any.

    Raises DataError when the file cannot be read.
    """
    if not path.is_file():
        raise DataError(f"no file {path}")
    with _one_line(path):
        raw = (pq.read_schema(path).metadata or {}).get(b"classes")
    if not raw:
        return None
    text = raw.decode("utf-8", errors="replace")
    try:
        names = json.loads(text)
    except ValueError:
        names = text.split(",")
    return tuple(str(name).strip() for name in names) if isinstance(names, list) else None


def read_columns(
    path: Path, names: Sequence[str], *, required: Collection[str], classes: Sequence[str] | None
) -> dict[str, list[str | None]]:
    """Those of the columns `names` that `path` has, as text.

    Where `classes` are given, a whole number indexes them, unless one of them looks like a number: then it is a name,
    as `fasten_model.read_samples` has it. A null, an empty text, −1 and a number that means none of the `classes`
    become None. Raises DataError when the file cannot be read, or lacks `image` or a `required` column.
    """
    if not path.is_file():
        raise DataError(f"no file {path}")
    with _one_line(path), pq.ParquetFile(path) as file:
        found = file.schema_arrow.names
        missing = sorted({"image", *required} - set(found))
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r} (found: {', '.join(found)})")
        table = file.read([name for name in names if name in found])
    meant = None if classes is None else _by_number(classes)
    return {
        name: [_text(value, None if name == "sample_id" else meant) for value in table.column(name).to_pylist()]
        for name in table.column_names
    }


def read_images(path: Path, rows: Collection[int]) -> dict[int, bytes]:
    """Row → image bytes of the wanted `rows`; one that holds no image (`image_files.extension`) is left out.

    Memory holds the wanted images and one batch of rows.
    """
    wanted = set(rows)
    images: dict[int, bytes] = {}
    with _one_line(path), pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if not wanted.isdisjoint(range(start, start + count)):
                position = start
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=["image"]):
                    column = batch.column(0)
                    for offset in range(batch.num_rows):
                        if position + offset in wanted and (data := _image_bytes(column[offset].as_py())) is not None:
                            images[position + offset] = data
                    position += batch.num_rows
            start += count
    return images


def _image_bytes(value: Any) -> bytes | None:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) and extension(data) is not None else None


def _by_number(classes: Sequence[str]) -> dict[str, str]:
    """A whole number, as text → the class that it means."""
    return {str(index): name for index, name in enumerate(classes)} if are_indices(classes) else {c: c for c in classes}


def _text(value: Any, by_number: Mapping[str, str] | None) -> str | None:
    value = plain_label(value)
    if value is None or value in (-1, ""):
        return None
    if by_number is None or not isinstance(value, int):
        return str(value)
    return by_number.get(str(value))
