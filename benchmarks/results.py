"""Results in one Parquet file: a row for each (cell, seed, method), written as soon as it is known.

Runs last hours and may be killed, or two may write the same file: a row is added under a lock to what the file holds at
that moment, and the file is replaced as a whole, so that a reader finds it with or without the row, but never half.
"""

import fcntl
import json
import os
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fasten_model.errors import DataError

Key = tuple[str, int, str]
"""(noise, seed, method): what a row is of."""
_SETTINGS = b"settings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method, trained once. A figure that is undefined, or that the method has not, is None. Shares are in 0…1."""

    noise: str
    """The cell, as it is written on the command line."""
    seed: int
    method: str
    error: str | None = None
    """Why there are no figures."""
    dataset: str = ""
    epochs: int | None = None
    noisy: int | None = None
    clean: int | None = None
    noise_rate: float | None = None
    """Share of the noisy labels that are wrong."""
    accuracy_last: float | None = None
    """Of the test set, after the last epoch."""
    accuracy_best: float | None = None
    """Of the test set, at the first epoch of the best clean-validation accuracy."""
    best_epoch: int | None = None
    validation_accuracy: list[float] | None = None
    """After each epoch."""
    ece: float | None = None
    """Of the test predictions after the last epoch."""
    transition_absolute: float | None = None
    transition_chi2: float | None = None
    true_diagonal: float | None = None
    estimated_diagonal: float | None = None
    labels_correct: float | None = None
    labels_correct_of_wrong: float | None = None
    relabel_precision: float | None = None
    relabel_recall: float | None = None
    relabelled: float | None = None
    seconds: float | None = None
    """Of training and of judging the noisy labels; without the harness' own evaluations."""
    cpu_seconds: float | None = None
    """The process's own time in them, which another process beside it does not lengthen."""
    images_per_second: float | None = None
    """Noisy images × epochs ÷ seconds: the same work counted for every method, whatever else it looks at."""
    peak_memory_mib: float | None = None
    """GPU: allocated by torch at the most. CPU: growth of the resident set at its peak."""
    passes: float | None = None
    config: str = "{}"
    """The method's TrainConfig, as JSON."""
    machine: str = ""
    code: str = ""
    """Commit and date."""

    @property
    def key(self) -> Key:
        """What the row is of."""
        return self.noise, self.seed, self.method


def _arrow_type(kind: object) -> pa.DataType:
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), list[float]: pa.list_(pa.float64())}
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next(plain[option] for option in options if option in plain)


SCHEMA = pa.schema([(field.name, _arrow_type(field.type)) for field in fields(Row)])


class ResultsFile:
    """The rows of one file that were all made with the same settings.

    settings: everything but cell, seed and method that a figure depends on, as JSON values. A file that is there is
    gone on with; `DataError` where it was made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(settings))
        self._check_settings()

    def rows(self) -> list[Row]:
        """What the file holds now."""
        return read_rows(self.path)[0] if self.path.exists() else []

    def has(self, key: Key) -> bool:
        """Whether the file holds figures of `key`; a failure does not count: it is tried again."""
        return any(row.key == key and row.error is None for row in self.rows())

    def add(self, row: Row) -> None:
        """Add `row`; it takes the place of an earlier one of the same key."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.parent):
            self._check_settings()
            kept = [other for other in self.rows() if other.key != row.key]
            write_rows(self.path, [*kept, row], self._settings)

    def _check_settings(self) -> None:
        if not self.path.exists():
            return
        before = read_rows(self.path)[1]
        for name in {**before, **self._settings}:
            old, new = before.get(name), self._settings.get(name)
            if old != new:
                raise DataError(
                    f"{self.path} was made with {name} {json.dumps(old)}, this run has {json.dumps(new)}; "
                    "run it with the same, or write elsewhere (--out)"
                )


def write_rows(path: Path, rows: Sequence[Row], settings: Mapping[str, object]) -> None:
    """Replace `path` by a file with `rows`."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    table = table.replace_schema_metadata({_SETTINGS: json.dumps(settings).encode()})
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def read_rows(path: Path) -> tuple[list[Row], dict[str, object]]:
    """(rows, settings) of a results file; a column that it does not have yet is None. `DataError` if it is not one."""
    try:
        table = pq.read_table(path, partitioning=None)
        settings = json.loads((table.schema.metadata or {})[_SETTINGS])
        known = table.select([name for name in SCHEMA.names if name in table.column_names])
        return [Row(**values) for values in known.to_pylist()], settings
    except FileNotFoundError:
        raise DataError(f"there is no results file {path}") from None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a results file of the harness ({reason}); write elsewhere (--out)") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time in `folder`; the lock ends with its process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
