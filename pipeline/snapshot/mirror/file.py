"""The file of a mirror: its tables, transactions and errors, and texts that are noted in it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.database_errors import is_in_use, told_of_the_file
from pipeline.errors import DataError

MIRROR_VERSION = 1
"""Raised whenever the tables change: an older mirror is read anew from Label Studio."""
TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS project (
    project_id INT PRIMARY KEY, origin TEXT NOT NULL, reading TEXT NOT NULL, cursor TEXT NOT NULL, through INT NOT NULL,
    loaded INT NOT NULL, state TEXT NOT NULL, reconciled_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS url (
    digest BLOB PRIMARY KEY, url TEXT NOT NULL, sha256 TEXT, reason TEXT, problem TEXT, passing INT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS task (
    project_id INT, task_id INT, sample_id TEXT, own_id TEXT, digest BLOB, asked_as TEXT, suggestion TEXT,
    asked_by_run TEXT, updated_at TEXT, answers INT, entries INT, content BLOB, PRIMARY KEY (project_id, task_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS annotation (
    project_id INT, task_id INT, annotation_id INT, annotator TEXT, answer TEXT, label TEXT, ground_truth INT,
    was_cancelled INT, lead_time_s REAL, created_at TEXT, updated_at TEXT,
    PRIMARY KEY (project_id, task_id, annotation_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS problem (project_id INT, task_id INT, reason TEXT, particulars TEXT);
CREATE INDEX IF NOT EXISTS by_digest ON task (digest);
CREATE INDEX IF NOT EXISTS by_sample ON task (sample_id, project_id, task_id);
CREATE INDEX IF NOT EXISTS problem_of ON problem (project_id, task_id);
"""


class MirrorFile:
    """A context manager. One process at a time (`writer.exclusive_pull`). Raises `DataError` where it is damaged."""

    def __init__(self, path: Path, *, patience_s: float = 60.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._damaged():
            self._database = sqlite3.connect(path, timeout=patience_s, isolation_level=None)
        try:
            with self._damaged():
                # A log that is written ahead needs no memory shared with others, which network folders do not have,
                # where one process has it alone; and a commit need not wait for the disk: what a power failure takes
                # is read again.
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.execute("PRAGMA cache_size = -16384")  # 16 MiB
                self._make_tables()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if is_in_use(error):
                raise DataError(f"{self._path} is in use by another pull; run it again when that has ended") from None
            raise told_of_the_file(error, self._path) or error from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self._path} is damaged ({error}); remove it: the next pull reads it anew") from None

    def _make_tables(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, MIRROR_VERSION):
            names = self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in names:
                self._database.execute(f'DROP TABLE "{name}"')
        if version != MIRROR_VERSION:
            self._database.executescript(TABLES)
            self._database.execute(f"PRAGMA user_version = {MIRROR_VERSION}")

    def _rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """What a query finds, row by row; others may be asked meanwhile."""
        with self._damaged(), closing(self._database.cursor()) as cursor:
            yield from cursor.execute(query, values)

    def _row(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The first row that a query finds; None where it finds none."""
        with self._damaged():
            return self._database.execute(query, values).fetchone()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._damaged():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _touch(self) -> None:
        self._database.execute(
            "INSERT INTO meta VALUES ('generation', '1') "
            "ON CONFLICT DO UPDATE SET value = CAST(CAST(value AS INT) + 1 AS TEXT)"
        )

    @property
    def generation(self) -> int:
        """Another number whenever anything in the mirror has changed."""
        return int(self._meta("generation") or 0)

    def _meta(self, name: str) -> str | None:
        found = self._row("SELECT value FROM meta WHERE name = ?", (name,))
        return None if found is None else str(found[0])

    def note(self, name: str, value: str) -> None:
        """Remember a text for the next pull, such as what was written from which generation."""
        if self._meta(name) != value:
            with self._transaction() as database:
                database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """What was noted; None where nothing was."""
        return self._meta(name)
