"""The columns of an inline Parquet file, looked at before any image is: their types, and values that are no label."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fasten_model.errors import DataError
from fasten_model.images.label_values import plain_label

AUDIT, REVIEW = "audit", "review"
"""Provenance of an audited sample: drawn at random, or asked about because a model was unsure of it."""
_COLUMN_ROWS = 2**16
_NULL = pa.types.is_null
"""A column without a single value may have no type of its own."""
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary, _NULL)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_NAME = (*_TEXT, pa.types.is_integer, _NULL)
_FLOAT = (pa.types.is_float32, pa.types.is_float64)


def check_columns(path: Path, file: pq.ParquetFile, *, audited: bool) -> None:
    """`DataError` unless they are of the form that `fasten_model.images.parquet` reads.

    audited: the file is of audited samples, so that a column `provenance` has a meaning.
    """
    schema = file.schema_arrow
    _check_types(path, schema)
    names = ["sample_id", *label_columns(schema)]
    check_texts(path, file, names)
    _check_whole(path, file)
    if audited and "provenance" in schema.names:
        check_provenance(path, file)


def label_columns(schema: pa.Schema) -> list[str]:
    """The columns of class labels, `label` first."""
    return [name for name in ("label", "given_label") if name in schema.names]


def image_column(schema: pa.Schema) -> str:
    """What to read of the images: the bytes alone, as a path means nothing here, and need not even be text."""
    return "image.bytes" if _is_struct(schema) else "image"


def holds_images(schema: pa.Schema) -> bool:
    """Whether that column is one of bytes."""
    kind = schema.field("image").type
    return _is_any(kind.field("bytes").type if _is_struct(schema) else kind, _BINARY)


def _is_struct(schema: pa.Schema) -> bool:
    kind = schema.field("image").type
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def inline_bytes(image: Any) -> bytes | None:
    """The bytes of a value of that column."""
    found: bytes | None = image.get("bytes") if isinstance(image, dict) else image
    return found


def check_texts(path: Path, file: pq.ParquetFile, columns: Sequence[str]) -> None:
    """`DataError` where one of these columns has text that is not UTF-8.

    Parquet lets any bytes be called a string; Arrow looks at them only when asked, and Python fails on them.
    """
    schema = file.schema_arrow
    names = [name for name in columns if is_text(schema.field(name).type)]
    for name, start, column in _parts(file, names):
        bad = bad_text(column)
        if bad is not None:
            row, found = bad
            raise DataError(
                f"{path}: column {name} must hold UTF-8 text, found {found!r} in row {start + row} (the first is "
                "0); write the file anew with its text decoded as what it is, say latin-1"
            )


def bad_text(column: pa.Array) -> tuple[int, bytes] | None:
    """The first text that is not UTF-8: its place, and how it begins."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return _first_bad_text(column)
    return None


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, each as it is or by its place among all."""
    return _is_any(kind, _TEXT)


def _parts(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[tuple[str, int, pa.Array]]:
    """(column, its first row, values) of these columns, a few thousand rows at a time."""
    start = 0
    for batch in file.iter_batches(batch_size=_COLUMN_ROWS, columns=list(names)) if names else ():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            yield name, start, column
        start += batch.num_rows


def _first_bad_text(column: pa.Array) -> tuple[int, bytes]:
    values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    for row, value in enumerate(values.cast(pa.large_string()).view(pa.large_binary()).to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return row, value[:40]
    raise AssertionError("Arrow found text that is not UTF-8, Python does not")


def _check_types(path: Path, schema: pa.Schema) -> None:
    missing = sorted({"sample_id", "image", "label"} - set(schema.names))
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)} (found: {', '.join(schema.names)})")
    if not holds_images(schema):
        raise DataError(
            f"{path}: column image must be struct<bytes: binary, path: string>, found {schema.field('image').type}; "
            "store the bytes of the image file itself, not its path nor text made of it (base64)"
        )
    if not _is_any(schema.field("sample_id").type, _NAME):
        raise DataError(
            f"{path}: column sample_id must hold strings or integers, found {schema.field('sample_id').type}; write "
            "each id as a string"
        )
    for name in label_columns(schema):
        if not _is_any(schema.field(name).type, (*_NAME, *_FLOAT)):
            raise DataError(
                f"{path}: column {name} must hold strings or integers, found {schema.field(name).type}; write each "
                "label as the name of its class"
            )


def _check_whole(path: Path, file: pq.ParquetFile) -> None:
    """Doubles may be integers with gaps, as pandas writes them; any other is no label, but a score or the like."""
    schema = file.schema_arrow
    names = [name for name in label_columns(schema) if _is_any(schema.field(name).type, _FLOAT)]
    for name, start, column in _parts(file, names):
        for row, value in enumerate(column.to_pylist(), start):
            if isinstance(plain_label(value), float):
                raise DataError(
                    f"{path}: column {name} must hold strings or whole numbers, found {value} in row {row} (the "
                    "first is 0); write each label as the name of its class"
                )


def check_provenance(path: Path, file: pq.ParquetFile) -> None:
    """`DataError` unless column `provenance` says of each row how it came to be audited.

    A word that nobody knows may stand for either, and one of them must not estimate.
    """
    kind = file.schema_arrow.field("provenance").type
    if not _is_any(kind, (*_TEXT, _NULL)):
        raise DataError(f"{path}: column provenance must hold strings, found {kind}; write “{AUDIT}” or “{REVIEW}”")
    check_texts(path, file, ["provenance"])
    for _, start, column in _parts(file, ["provenance"]):
        if set(pc.unique(column).to_pylist()) <= {AUDIT, REVIEW}:
            continue
        row, value = next((row, v) for row, v in enumerate(column.to_pylist()) if v not in (AUDIT, REVIEW))
        raise DataError(
            f"{path}: column provenance must hold “{AUDIT}” (drawn at random) or “{REVIEW}” (chosen because a model "
            f"was unsure), found {value and value[:40]!r} in row {start + row} (the first is 0)"
        )


def _is_any(kind: pa.DataType, tests: Iterable[Callable[[pa.DataType], bool]]) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(test(value) for test in tests)
