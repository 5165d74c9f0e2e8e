"""What the rows of an inline Parquet file say, their images apart, and what is wrong with those that cannot be used."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from fasten_model.errors import DataError
from fasten_model.images.class_names import class_label, class_name, numbered_classes, stated_classes
from fasten_model.images.columns import AUDIT, image_column, inline_bytes, label_columns
from fasten_model.images.label_values import are_indices, plain_label

BATCH_ROWS = 256
_COLUMN_ROWS = 2**16
_UNKNOWN = -1


class Row(NamedTuple):
    """What a usable row says."""

    number: int
    """From 0, in the file."""
    sample_id: str
    label: int
    """Index into the classes."""
    given: int
    """The same of the given label; −1 where it is unknown."""
    estimates: bool
    """Whether it was drawn at random, as far as the file says."""


class Rejected(NamedTuple):
    """A row that cannot be used."""

    number: int
    sample_id: str
    reason: str


class Rows:
    """The rows of one file whose columns have been checked (`check_columns`); to be read once."""

    def __init__(self, path: Path, file: pq.ParquetFile, classes: Sequence[str] | None, *, audited: bool) -> None:
        schema = file.schema_arrow
        self.classes = tuple(classes) if classes is not None else _classes(path, file)
        self.usable: list[Row] = []
        self.rejected: list[Rejected] = []
        self._file = file
        self._columns = label_columns(schema)
        self._provenance = ["provenance"] if audited and "provenance" in schema.names else []
        self._names = {column: numbered_classes(path, schema, column) for column in self._columns}
        self._index = {name: index for index, name in enumerate(self.classes)}
        self._by_index = are_indices(self.classes)
        self._seen: set[str] = set()

    def read(self) -> None:
        """All of them, and no image: it is the only thing that can still be wrong with those that are `usable`."""
        for _ in self._each():
            pass

    def images(self) -> Iterator[bytes]:
        """The image's bytes of each row that nothing else is wrong with: those that are `usable`, in their order."""
        for values in self._each(image_column(self._file.schema_arrow)):
            image = inline_bytes(values["image"])
            if image is None:
                self.reject(self.usable.pop(), "it has no inline image bytes")
            else:
                yield image

    def reject(self, row: Row, reason: str) -> None:
        """Add it to those that are `rejected`."""
        self.rejected.append(Rejected(row.number, row.sample_id, reason))

    def reasons(self) -> tuple[tuple[str, str], ...]:
        """(sample_id, reason) of those that are `rejected`, in the order of the file."""
        return tuple((row.sample_id, row.reason) for row in sorted(self.rejected))

    def _each(self, *more: str) -> Iterator[dict[str, Any]]:
        """The values of each row that is usable, once it is the last of those."""
        wanted = ["sample_id", *self._columns, *self._provenance, *more]
        batches = self._file.iter_batches(batch_size=BATCH_ROWS, columns=wanted)
        for number, values in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches)):
            try:
                self.usable.append(self._row(number, values))
            except DataError as error:
                self.rejected.append(Rejected(number, str(values["sample_id"]), str(error)))
            else:
                yield values

    def _row(self, number: int, values: dict[str, Any]) -> Row:
        sample_id = values["sample_id"]
        if sample_id is None or sample_id == "":
            raise DataError("it has no sample_id")
        if sample_id in self._seen:
            raise DataError("its sample_id occurs earlier in the file")
        self._seen.add(sample_id)
        label, given = (self._label(column, values.get(column)) for column in ("label", "given_label"))
        if label == _UNKNOWN:
            raise DataError("it has no label")
        return Row(number, str(sample_id), label, given, values.get("provenance", AUDIT) == AUDIT)

    def _label(self, column: str, value: str | float | None) -> int:
        """Index of the class that `value` means; −1 where it is null, or an empty text."""
        label: str | int | None = plain_label(value)
        names = self._names.get(column)
        if isinstance(label, int) and names is not None:
            label = class_name(label, names)
        if label is None or label == "":
            return _UNKNOWN
        if isinstance(label, int) and self._by_index:
            if not 0 <= label < len(self.classes):
                raise DataError(f"unknown class {label} (there are {len(self.classes)})")
            return label
        if str(label) not in self._index:
            raise DataError(f"unknown class {label!r}")
        return self._index[str(label)]


def _classes(path: Path, file: pq.ParquetFile) -> tuple[str, ...]:
    """As the file itself states them, else the labels that occur."""
    schema = file.schema_arrow
    columns = label_columns(schema)
    stated = stated_classes(path, schema, columns)
    if stated is not None:
        return stated
    found: set[Any] = set()
    for column in columns:
        names = class_label(path, schema, column)
        if names is not None:
            found.update(names)
            continue
        for batch in file.iter_batches(batch_size=_COLUMN_ROWS, columns=[column]):
            found.update(plain_label(label) for label in pc.unique(batch.column(0)).to_pylist())
    found -= {None, ""}
    numbers = all(isinstance(label, int) for label in found)
    return tuple(str(label) for label in sorted(found, key=lambda label: label if numbers else str(label)))
