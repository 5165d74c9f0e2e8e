"""Rows in one Parquet file, written as soon as each is known.

Runs last hours and may be killed, or two may write the same file: a row is added under a lock to what the file holds at
that moment, and the file is replaced as a whole, so that a reader finds it with or without the row, but never half.
"""

import fcntl
import json
import os
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from fasten_model.errors import DataError

_SETTINGS = b"settings"


class Keyed(Protocol):
    """A dataclass of plain values (text, number, list of them; None where unknown) that says what it is of."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Hashable:
        """What the row is of: no two rows of a file have the same."""

    @property
    def error(self) -> str | None:
        """Why the row has no figures."""


RowT = TypeVar("RowT", bound=Keyed)


def schema_of(kind: type[Keyed]) -> pa.Schema:
    """A column for each field."""
    return pa.schema([(field.name, _arrow_type(field.type)) for field in fields(kind)])


def _arrow_type(kind: object) -> pa.DataType:
    plain: dict[object, pa.DataType] = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
    }
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        if option in plain:
            return plain[option]
        if typing.get_origin(option) is list:
            return pa.list_(plain[typing.get_args(option)[0]])
    raise TypeError(f"no column for {kind}")


class RowsFile(Generic[RowT]):
    """The rows of one file that were all made with the same settings.

    settings: everything but the key that a figure depends on, as JSON values. A file that is there is gone on with;
    `DataError` where it was made with other settings, where `fresh` and it is there, or where nothing can be written.
    """

    def __init__(self, path: Path, kind: type[RowT], settings: Mapping[str, object], *, fresh: bool = False) -> None:
        self.path = path
        self._kind = kind
        self._settings = json.loads(json.dumps(settings))
        check_writable(path)
        if fresh and path.exists():
            raise DataError(
                f"{path} is there already; leave --no-resume away to go on with it, or write elsewhere (--out)"
            )
        self._check_settings()

    def rows(self) -> list[RowT]:
        """What the file holds now."""
        return read_file(self.path, self._kind)[0] if self.path.exists() else []

    def has(self, key: Hashable) -> bool:
        """Whether the file holds figures of `key`; a failure does not count: it is tried again."""
        return any(row.key == key and row.error is None for row in self.rows())

    def add(self, row: RowT) -> None:
        """Add `row`; it takes the place of an earlier one of the same key."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.parent):
            self._check_settings()
            kept = [other for other in self.rows() if other.key != row.key]
            write_file(self.path, self._kind, [*kept, row], self._settings)

    def _check_settings(self) -> None:
        if not self.path.exists():
            return
        before = read_file(self.path, self._kind)[1]
        for name in {**before, **self._settings}:
            old, new = before.get(name), self._settings.get(name)
            if old != new:
                raise DataError(
                    f"{self.path} was made with {name} {json.dumps(old)}, this run has {json.dumps(new)}; "
                    "run it with the same, or write elsewhere (--out)"
                )


def reason_of(error: Exception) -> str:
    """A row's `error`: one line, of what it was and of the first line that it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else ''}"[:300]


def write_file(path: Path, kind: type[RowT], rows: Sequence[RowT], settings: Mapping[str, object]) -> None:
    """Replace `path` by a file with `rows`."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema_of(kind))
    table = table.replace_schema_metadata({_SETTINGS: json.dumps(settings).encode()})
    with _staged(path) as staged:
        pq.write_table(table, staged, compression="zstd", compression_level=9)  # results are committed
        staged.replace(path)


def check_writable(path: Path, *, option: str = "--out") -> None:
    """Make the folder of `path` and try what `write_file` does there, before hours go into rows; else `DataError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent), _staged(path) as staged:
            staged.write_bytes(b"rows")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); write elsewhere ({option})") from error


def read_file(path: Path, kind: type[RowT]) -> tuple[list[RowT], dict[str, object]]:
    """(rows, settings) of a results file; a column that it does not have yet is None. `DataError` if it is not one."""
    try:
        with pq.ParquetFile(path) as file:  # opened once; read_table opens twice, and the file may be replaced between
            table = file.read()
        settings = json.loads((table.schema.metadata or {})[_SETTINGS])
        known = table.select([name for name in schema_of(kind).names if name in table.column_names])
        return [kind(**values) for values in known.to_pylist()], settings
    except FileNotFoundError:
        raise DataError(f"there is no results file {path}") from None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a results file of the harness ({reason}); write elsewhere (--out)") from error


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A name beside `path` for what is to take its place; nothing is left there."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield staged
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time in `folder`; the lock ends with its process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
