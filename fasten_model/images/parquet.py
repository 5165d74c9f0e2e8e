"""Samples from Parquet with the images inline: `sample_id, image struct<bytes,path>, label[, given_label]`."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fasten_model.checks import check_names, check_whole
from fasten_model.errors import DataError
from fasten_model.images.cache import ImageCache, Place
from fasten_model.images.decode import MAX_PIXELS, decode_image, decode_images
from fasten_model.images.label_values import are_indices, plain_label
from fasten_model.images.source import Images

__all__ = ["MAX_PIXELS", "Samples", "decode_image", "read_samples"]

_BATCH_ROWS = 256
_BUFFER_BYTES = 2**20
_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The usable rows of one file, in its order, and what was wrong with the others."""

    sample_ids: tuple[str, ...]
    images: Tensor | Images
    """uint8 [N,3,S,S]; a tensor unless they are kept in a cache."""
    labels: Tensor
    """int64 [N], index into `classes`."""
    given_labels: Tensor
    """int64 [N]: what the annotators had said before the audit; −1 where that is unknown."""
    classes: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    """(sample_id, reason) of each row left out."""


def read_samples(
    path: str | Path,
    *,
    size: int,
    classes: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    cache: str | Path | None = None,
) -> Samples:
    """Read `path`, a few hundred rows at a time, decoding each image to size × size (`decode_image`), in parallel.

    With `cache`, a folder that any number of files may share, images are decoded once and memory-mapped ever after
    (`ImageCache`): memory does not grow with their number.

    Labels are class names, or whole numbers, which are names, too, where a class looks like a number, and an index into
    the classes where none does. Classes come from the argument, else from the schema metadata `classes` (a JSON list,
    or names with commas between), else they are the file's own labels, sorted.
    A bad row (no id, an id seen before, no label, unknown class, bad image) is left out and told in `rejected`; only
    inline bytes count, the image's `path` is never opened. Raises DataError for a file that is not of this form.
    """
    path = Path(path)
    check_whole("size", size, 1)
    if classes is not None:
        check_names("classes", classes)
    try:
        # Left to itself, Arrow reads ahead, and keeps what it has read until the file is closed.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            _check_schema(path, file.schema_arrow)
            _check_texts(path, file)
            _check_whole(path, file)
            names = tuple(classes) if classes is not None else _file_classes(path, file)
            read = _Read(names)
            images: Tensor | Images
            if cache is None:
                images, places = _decode(read.rows(file), file.metadata.num_rows, size, max_pixels)
            else:
                with ImageCache(Path(cache), size=size, max_pixels=max_pixels) as kept:
                    hashed = ((hashlib.sha256(data).hexdigest(), data) for data in read.rows(file))
                    places = [place for _, place in kept.add(hashed)]
                    images = kept.images([place for place in places if isinstance(place, int)])
            return read.samples(images, places)
    except FileNotFoundError:
        raise DataError(f"{path} cannot be read (No such file or directory)") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or str(error).splitlines()[0]})") from error
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a sound Parquet file ({str(error).splitlines()[0]})") from error


_NULL = pa.types.is_null
"""A column without a single value may have no type of its own."""
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary, _NULL)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_NAME = (*_TEXT, pa.types.is_integer, _NULL)
_FLOAT = (pa.types.is_float32, pa.types.is_float64)


def _check_schema(path: Path, schema: pa.Schema) -> None:
    missing = sorted({"sample_id", "image", "label"} - set(schema.names))
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)} (found: {', '.join(schema.names)})")
    image = schema.field("image").type
    inline = image.field("bytes").type if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 else image
    if not _is_any(inline, _BINARY):
        raise DataError(
            f"{path}: column image must be struct<bytes: binary, path: string>, found {image}; store the bytes of the "
            "image file itself, not its path nor text made of it (base64)"
        )
    if not _is_any(schema.field("sample_id").type, _NAME):
        raise DataError(
            f"{path}: column sample_id must hold strings or integers, found {schema.field('sample_id').type}; write "
            "each id as a string"
        )
    for name in _label_columns(schema):
        if not _is_any(schema.field(name).type, (*_NAME, *_FLOAT)):
            raise DataError(
                f"{path}: column {name} must hold strings or integers, found {schema.field(name).type}; write each "
                "label as the name of its class"
            )


def _check_texts(path: Path, file: pq.ParquetFile) -> None:
    """Parquet lets any bytes be called a string; Arrow looks at them only when asked, and Python fails on them."""
    schema = file.schema_arrow
    names = [name for name in ("sample_id", *_label_columns(schema)) if _is_any(schema.field(name).type, _TEXT)]
    start = 0
    for batch in file.iter_batches(batch_size=2**16, columns=names) if names else ():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                row, found = _first_bad_text(column)
                raise DataError(
                    f"{path}: column {name} must hold UTF-8 text, found {found!r} in row {start + row} (the first is "
                    "0); write the file anew with its text decoded as what it is, say latin-1"
                ) from None
        start += batch.num_rows


def _first_bad_text(column: pa.Array) -> tuple[int, bytes]:
    values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    for row, value in enumerate(values.cast(pa.large_string()).view(pa.large_binary()).to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return row, value[:40]
    raise AssertionError("Arrow found text that is not UTF-8, Python does not")


def _check_whole(path: Path, file: pq.ParquetFile) -> None:
    """Doubles may be integers with gaps, as pandas writes them; any other is no label, but a score or the like."""
    schema = file.schema_arrow
    for name in _label_columns(schema):
        if not _is_any(schema.field(name).type, _FLOAT):
            continue
        start = 0
        for batch in file.iter_batches(batch_size=2**16, columns=[name]):
            for row, value in enumerate(batch.column(0).to_pylist(), start):
                if isinstance(plain_label(value), float):
                    raise DataError(
                        f"{path}: column {name} must hold strings or whole numbers, found {value} in row {row} (the "
                        "first is 0); write each label as the name of its class"
                    )
            start += batch.num_rows


def _is_any(kind: pa.DataType, tests: Iterable[Callable[[pa.DataType], bool]]) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(test(value) for test in tests)


def _label_columns(schema: pa.Schema) -> list[str]:
    return [name for name in ("label", "given_label") if name in schema.names]


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
    found: set[Any] = set()
    for batch in file.iter_batches(batch_size=2**16, columns=_label_columns(file.schema_arrow)):
        for column in batch.columns:
            found.update(plain_label(label) for label in pc.unique(column).to_pylist())
    found.discard(None)
    numbers = all(isinstance(label, int) for label in found)
    return tuple(str(label) for label in sorted(found, key=lambda label: label if numbers else str(label)))


class _Read:
    """The rows of one file, read once, and what became of each."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._index = {name: index for index, name in enumerate(classes)}
        self._by_index = are_indices(classes)
        self._seen: set[str] = set()
        self._usable: list[tuple[int, str, int, int]] = []
        """(row, sample_id, label, given label), in the order of the images handed out."""
        self._rejected: list[tuple[int, str, str]] = []
        """(row, sample_id, reason)."""

    def rows(self, file: pq.ParquetFile) -> Iterator[bytes]:
        """The image's bytes of each row that nothing else is wrong with."""
        for number, row in enumerate(_rows(file)):
            try:
                data, label, given = self._row(row)
            except DataError as error:
                self._rejected.append((number, str(row["sample_id"]), str(error)))
                continue
            self._usable.append((number, str(row["sample_id"]), label, given))
            yield data

    def samples(self, images: Tensor | Images, places: Sequence[Place]) -> Samples:
        """`places`: what became of each row's image, in the order of `rows`; `images`: those that have a row."""
        usable = []
        for row, place in zip(self._usable, places, strict=True):
            if isinstance(place, int):
                usable.append(row)
            else:
                self._rejected.append((row[0], row[1], place))
        return Samples(
            sample_ids=tuple(sample_id for _, sample_id, _, _ in usable),
            images=images,
            labels=torch.tensor([label for _, _, label, _ in usable], dtype=torch.int64),
            given_labels=torch.tensor([given for _, _, _, given in usable], dtype=torch.int64),
            classes=self._classes,
            rejected=tuple((sample_id, reason) for _, sample_id, reason in sorted(self._rejected)),
        )

    def _row(self, row: dict[str, Any]) -> tuple[bytes, int, int]:
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
        return image, label, given

    def _label(self, value: str | float | None) -> int:
        """Index of the class that `value` means; −1 where it is null."""
        label: str | int | None = plain_label(value)
        if label is None:
            return _UNKNOWN
        if isinstance(label, int) and self._by_index:
            if not 0 <= label < len(self._classes):
                raise DataError(f"unknown class {label} (there are {len(self._classes)})")
            return label
        if str(label) not in self._index:
            raise DataError(f"unknown class {label!r}")
        return self._index[str(label)]


def _decode(images: Iterator[bytes], most: int, size: int, max_pixels: int) -> tuple[Tensor, list[Place]]:
    """All that decode, uint8 [N,3,S,S] with N ≤ `most`, and the place of each that was given."""
    try:
        table = torch.empty(most, 3, size, size, dtype=torch.uint8)
    except RuntimeError:  # of more than the machine has; torch has no error of its own for that on a CPU
        raise DataError(
            f"{most:,} images of {size}×{size} take {most * 3 * size**2 / 2**30:,.0f} GiB of memory: take a smaller "
            "image size, or a cache on disk (`--cache`)"
        ) from None
    places: list[Place] = []
    count = 0
    for image in decode_images(images, size, max_pixels=max_pixels):
        if isinstance(image, DataError):
            places.append(str(image))
        else:
            table[count] = image
            places.append(count)
            count += 1
    return table[:count], places


def _rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    schema = file.schema_arrow
    # Of the image the bytes alone: its path means nothing here, and need not even be text.
    image = "image.bytes" if pa.types.is_struct(schema.field("image").type) else "image"
    wanted = ["sample_id", image, *_label_columns(schema)]
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
        yield from batch.to_pylist()
