"""Samples from Parquet with the images inline: `sample_id, image struct<bytes,path>, label[, given_label]`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.images.decode import MAX_PIXELS, decode_image

__all__ = ["MAX_PIXELS", "Samples", "decode_image", "read_samples"]

_BATCH_ROWS = 256
_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The usable rows of one file, in its order, and what was wrong with the others."""

    sample_ids: tuple[str, ...]
    images: Tensor
    """uint8 [N,3,S,S]."""
    labels: Tensor
    """int64 [N], index into `classes`."""
    given_labels: Tensor
    """int64 [N]: what the annotators had said before the audit; −1 where that is unknown."""
    classes: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    """(sample_id, reason) of each row left out."""


def read_samples(
    path: Path, *, size: int, classes: Sequence[str] | None = None, max_pixels: int = MAX_PIXELS
) -> Samples:
    """Read `path`, a few hundred rows at a time, decoding each image to size × size (`decode_image`).

    Labels are class names, or whole numbers: an index into the classes. Classes come from the argument, else from the
    schema metadata `classes` (a JSON list, or names with commas between), else they are the file's own labels, sorted.
    A bad row (no id, an id seen before, no label, unknown class, bad image) is left out and told in `rejected`; only
    inline bytes count, the image's `path` is never opened. Raises DataError for a file that is not of this form.
    """
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(path, file.schema_arrow)
            names = tuple(classes) if classes is not None else _file_classes(path, file)
            return _read(file, _Reader(names, size, max_pixels))
    except FileNotFoundError:
        raise DataError(f"{path} cannot be read (No such file or directory)") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or str(error).splitlines()[0]})") from error
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a sound Parquet file ({str(error).splitlines()[0]})") from error


def _check_schema(path: Path, schema: pa.Schema) -> None:
    missing = sorted({"sample_id", "image", "label"} - set(schema.names))
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)} (found: {', '.join(schema.names)})")
    image = schema.field("image").type
    if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0) and not _is_binary(image):
        raise DataError(f"{path}: column image must be struct<bytes, path>, found {image}")
    for name in ("label", "given_label"):
        if name in schema.names and not _is_label(schema.field(name).type):
            raise DataError(f"{path}: column {name} must hold strings or integers, found {schema.field(name).type}")


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_label(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_integer(value))


def _file_classes(path: Path, file: pq.ParquetFile) -> tuple[str, ...]:
    """Classes as the file itself names them: metadata first, else the labels that occur."""
    stated = (file.schema_arrow.metadata or {}).get(b"classes")
    if stated is not None:
        text = stated.decode(errors="replace")
        try:
            names = json.loads(text)
        except (ValueError, RecursionError):
            names = [name.strip() for name in text.split(",")]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise DataError(f"{path}: schema metadata 'classes' must be a JSON list of names, found {text[:60]!r}")
        if len(set(names)) != len(names):
            raise DataError(f"{path}: schema metadata 'classes' names a class twice")
        return tuple(names)
    columns = [name for name in ("label", "given_label") if name in file.schema_arrow.names]
    found: set[Any] = set()
    for batch in file.iter_batches(batch_size=2**16, columns=columns):
        for column in batch.columns:
            found.update(pc.unique(column).to_pylist())
    found.discard(None)
    numbers = all(isinstance(label, int) for label in found)
    return tuple(str(label) for label in sorted(found, key=lambda label: label if numbers else str(label)))


class _Reader:
    """Turns one row into tensors, or says why not."""

    def __init__(self, classes: tuple[str, ...], size: int, max_pixels: int) -> None:
        self.classes = classes
        self.size = size
        self.max_pixels = max_pixels
        self._index = {name: index for index, name in enumerate(classes)}
        self._seen: set[str] = set()

    def row(self, row: dict[str, Any]) -> tuple[Tensor, int, int]:
        """(image, label, given label) of one row; DataError says what is wrong with it."""
        if row["sample_id"] is None or row["sample_id"] == "":
            raise DataError("it has no sample_id")
        if row["sample_id"] in self._seen:
            raise DataError("its sample_id occurs earlier in the file")
        self._seen.add(row["sample_id"])
        label, given = self._label(row["label"]), self._label(row.get("given_label"))
        if label == _UNKNOWN:
            raise DataError("it has no label")
        image = row["image"].get("bytes") if isinstance(row["image"], dict) else row["image"]
        if image is None:
            raise DataError("it has no inline image bytes")
        return decode_image(image, self.size, max_pixels=self.max_pixels), label, given

    def _label(self, label: str | int | None) -> int:
        if label is None:
            return _UNKNOWN
        if isinstance(label, str) or str(label) in self._index:
            if label not in self._index and str(label) not in self._index:
                raise DataError(f"unknown class {label!r}")
            return self._index[str(label)]
        if not 0 <= label < len(self.classes):
            raise DataError(f"unknown class {label} (there are {len(self.classes)})")
        return label


def _read(file: pq.ParquetFile, reader: _Reader) -> Samples:
    images = torch.empty(file.metadata.num_rows, 3, reader.size, reader.size, dtype=torch.uint8)
    sample_ids: list[str] = []
    labels: list[tuple[int, int]] = []
    rejected: list[tuple[str, str]] = []
    for row in _rows(file):
        try:
            image, label, given = reader.row(row)
        except DataError as error:
            rejected.append((str(row["sample_id"]), str(error)))
            continue
        images[len(labels)] = image
        sample_ids.append(str(row["sample_id"]))
        labels.append((label, given))
    pair = torch.tensor(labels, dtype=torch.int64).reshape(-1, 2)
    return Samples(
        sample_ids=tuple(sample_ids),
        images=images[: len(labels)],
        labels=pair[:, 0].contiguous(),
        given_labels=pair[:, 1].contiguous(),
        classes=reader.classes,
        rejected=tuple(rejected),
    )


def _rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    wanted = [name for name in ("sample_id", "image", "label", "given_label") if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
        yield from batch.to_pylist()
