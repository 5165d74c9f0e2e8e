"""Parquet files with the image inline: the columns first, then the images of the chosen rows only."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fasten_model.images import class_names
from fasten_model.images.columns import AUDIT, check_provenance, check_texts, holds_images, image_column, inline_bytes
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


def stated_classes(path: Path, columns: Sequence[str] = ("label", "given_label")) -> tuple[str, ...] | None:
    """The class names in the schema's metadata, if any (`fasten_model.images.class_names.stated_classes`).

    Raises DataError when the file cannot be read, or states them in a way that cannot.
    """
    if not path.is_file():
        raise DataError(f"no file {path}")
    with _one_line(path):
        schema = pq.read_schema(path)
    return class_names.stated_classes(path, schema, columns)


def read_columns(
    path: Path, names: Sequence[str], *, required: Collection[str], classes: Sequence[str] | None
) -> dict[str, list[str | None]]:
    """Those of the columns `names` that `path` has, as text.

    Whole numbers are read as `fasten_model.read_samples` does: of a `ClassLabel` they stand for its names; else, where
    the file lists its classes or `classes` are given, they index these, unless one looks like a number: then each is a
    name. A null, an empty
    text, −1 and a number that means none of the classes become None. Raises DataError when the file cannot be read, or
    lacks `image` or a `required` column, or has text that is not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"no file {path}")
    with _one_line(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        missing = sorted({"image", *required} - set(schema.names))
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r} (found: {', '.join(schema.names)})")
        found = [name for name in names if name in schema.names]
        check_texts(path, file, found)
        table = file.read(found)
        listed = class_names.listed_classes(path, schema)
    columns: dict[str, list[str | None]] = {}
    for name in found:
        labels = name != "sample_id"
        meant = _by_number(class_names.class_label(path, schema, name), listed or classes) if labels else None
        columns[name] = [_text(value, meant) for value in table.column(name).to_pylist()]
    return columns


def drawn_at_random(path: Path) -> list[bool] | None:
    """Which rows of a file of audited samples were drawn at random; None where it has no column `provenance`.

    Raises DataError where it cannot be read, or says something else of a row.
    """
    with _one_line(path), pq.ParquetFile(path) as file:
        if "provenance" not in file.schema_arrow.names:
            return None
        check_provenance(path, file)
        return [value == AUDIT for value in file.read(["provenance"])["provenance"].to_pylist()]


def read_images(path: Path, rows: Collection[int]) -> dict[int, bytes]:
    """Row → image bytes of the wanted `rows`; one that holds no image (`image_files.extension`) is left out.

    Memory holds the wanted images and one batch of rows.
    """
    wanted = set(rows)
    images: dict[int, bytes] = {}
    with _one_line(path), pq.ParquetFile(path) as file:
        if not holds_images(file.schema_arrow):
            return {}
        image = image_column(file.schema_arrow)
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if not wanted.isdisjoint(range(start, start + count)):
                position = start
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[image]):
                    column = batch.column(0)
                    for offset in range(batch.num_rows):
                        if position + offset in wanted and (data := _image_bytes(column[offset].as_py())) is not None:
                            images[position + offset] = data
                    position += batch.num_rows
            start += count
    return images


def _image_bytes(value: Any) -> bytes | None:
    data = inline_bytes(value)
    return data if isinstance(data, bytes) and extension(data) is not None else None


def _by_number(label: Sequence[str] | None, classes: Sequence[str] | None) -> dict[str, str] | None:
    """A whole number of a column, as text → the class that it means; None where it is a name whatever the classes.

    label: the names of a `ClassLabel`, where the column is one.
    """
    names = classes if label is None else label
    if names is None:
        return None
    if label is not None or are_indices(names):
        return {str(index): name for index, name in enumerate(names)}
    return {name: name for name in names}


def _text(value: Any, by_number: Mapping[str, str] | None) -> str | None:
    value = plain_label(value)
    if value is None or value in (-1, ""):
        return None
    if by_number is None or not isinstance(value, int):
        return str(value)
    return by_number.get(str(value))
