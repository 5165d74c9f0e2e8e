"""Results of methods: a row for each (cell, seed, method) in one Parquet file (`benchmarks.rows_file`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows_file import RowsFile, read_file, schema_of, write_file

Key = tuple[str, int, str]
"""(noise, seed, method): what a row is of."""


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


SCHEMA = schema_of(Row)


class ResultsFile(RowsFile[Row]):
    """The rows of methods that were all run with the same settings."""

    def __init__(self, path: Path, settings: Mapping[str, object], *, fresh: bool = False) -> None:
        super().__init__(path, Row, settings, fresh=fresh)


def write_rows(path: Path, rows: Sequence[Row], settings: Mapping[str, object]) -> None:
    """Replace `path` by a file with `rows`."""
    write_file(path, Row, rows, settings)


def read_rows(path: Path) -> tuple[list[Row], dict[str, object]]:
    """(rows, settings) of a results file; `DataError` if it is not one."""
    return read_file(path, Row)
