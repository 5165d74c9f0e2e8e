"""Names of classes as the metadata of a Parquet schema has them: a list of ours, or a `ClassLabel` of `datasets`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fasten_model.errors import DataError
from fasten_model.images.label_values import are_indices

NO_LABEL = -1
"""What `datasets` writes in the place of a class that is not known."""
_CLASSES = b"classes"
_HUGGING_FACE = b"huggingface"


def stated_classes(path: Path, schema: pa.Schema, columns: Sequence[str]) -> tuple[str, ...] | None:
    """All classes in their order, where the file at `path` states them.

    They are those of the metadata `classes` (a JSON list, or names with commas between), else those of the first of
    `columns` that is a `ClassLabel`, and after them what the other columns' have beyond; a first column that is none
    may hold anything. Raises `DataError` where that is no list of names.
    """
    listed = listed_classes(path, schema)
    if listed is not None:
        return listed
    found = [class_label(path, schema, column) for column in columns if column in schema.names]
    if not found or found[0] is None:
        return None
    return tuple(dict.fromkeys(name for names in found for name in names or ()))


def listed_classes(path: Path, schema: pa.Schema) -> tuple[str, ...] | None:
    """Those of the metadata `classes`; None where there is none. `DataError` as for `stated_classes`."""
    text = (schema.metadata or {}).get(_CLASSES)
    if text is None:
        return None
    text = text.decode(errors="replace")
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = [name.strip() for name in text.split(",")]
    return _checked(names, f"{path}: schema metadata 'classes'")


def numbered_classes(path: Path, schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """What the integers of `column` stand for as the file itself says, whatever classes whoever reads it knows.

    A `ClassLabel` says it, else the metadata `classes` do, unless one of these looks like a number; else None.
    Raises `DataError` where that cannot be read.
    """
    own = class_label(path, schema, column)
    if own is not None:
        return own
    listed = listed_classes(path, schema)
    return listed if listed is not None and are_indices(listed) else None


def class_label(path: Path, schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """What the integers of `column` stand for, where `datasets` wrote it as a `ClassLabel`; else None.

    Its metadata `huggingface` is JSON: `{"info": {"features": {column: {"_type": "ClassLabel", "names": […]}}}}`.
    Raises `DataError` where integers may have names that cannot be read.
    """
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = (schema.metadata or {}).get(_HUGGING_FACE)
    # pandas makes doubles of integers with gaps.
    if text is None or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    try:
        feature = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(
            f"{path}: schema metadata 'huggingface' is no JSON, so that nobody knows what the numbers of column "
            f"{column} stand for; write the file anew, without it or with `datasets`"
        ) from None
    for key in ("info", "features", column):
        feature = feature.get(key) if isinstance(feature, dict) else None
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    return _checked(
        feature.get("names"), f"{path}: the names of ClassLabel {column}, in schema metadata 'huggingface',"
    )


def class_name(value: int, names: Sequence[str]) -> str | None:
    """The class that an integer stands for whose column has these names; None where it is not known.

    Raises `DataError` where it is none.
    """
    if value == NO_LABEL:
        return None
    if not 0 <= value < len(names):
        raise DataError(f"unknown class {value} (there are {len(names)})")
    return names[value]


def _checked(names: Any, where: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        found = repr(names if len(repr(names)) <= 60 else f"{str(names)[:60]} …")
        raise DataError(f"{where} must be a JSON list of names, found {found}")
    if len(set(names)) != len(names):
        raise DataError(f"{where} names a class twice")
    return tuple(names)


def _is_name(name: Any) -> bool:
    """JSON can also spell texts that no encoding has (half a pair of surrogates)."""
    return isinstance(name, str) and name != "" and name.encode(errors="ignore").decode() == name
