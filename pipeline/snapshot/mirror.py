"""The mirror: what Label Studio holds, as far as pulls have read it, in one SQLite file of the workspace.

    mirror.sqlite
        project      one per project that is pulled: its role, how its labels are read, how far reading has come
        task         every task that somebody has answered or skipped, with the question that it asks
        annotation   every annotation of those tasks, whoever made it
        problem      what could not be read of them
        url          every image address, and what came of fetching it

A pull brings it up to date (`catch_up`) and writes a snapshot from it alone, so that nothing has to be read twice. Each
chunk is one transaction: a process that is killed loses the chunk under way, and the next one goes on from there. A
hundred thousand tasks cost disk, not memory. The file holds nothing that cannot be read again: it may be removed.
"""

import errno
import hashlib
import json
import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import DataError
from pipeline.images.check import ImageError
from pipeline.records import Annotation, Origin
from pipeline.snapshot.consensus import Answer
from pipeline.snapshot.question import Question
from pipeline.snapshot.said import Said, TaskImage

logger = logging.getLogger(__name__)

MIRROR_VERSION = 1
"""Raised whenever the tables change: an older mirror is read anew from Label Studio."""
_TABLES = """
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
# An audited task of its own belongs to the one labelled sample that shows the same bytes; where several do, to none.
_LINK = """
WITH bulk AS (
    SELECT url.sha256 AS sha256, MIN(own_id) AS own_id
    FROM task JOIN project USING (project_id) JOIN url USING (digest)
    WHERE origin = 'labels' AND sha256 IS NOT NULL GROUP BY url.sha256 HAVING COUNT(DISTINCT own_id) = 1
)
UPDATE task SET sample_id = bulk.own_id FROM bulk JOIN url ON url.sha256 = bulk.sha256
WHERE task.digest = url.digest AND task.project_id IN (SELECT project_id FROM project WHERE origin = 'audit')
    AND task.own_id NOT IN (
        SELECT own_id FROM task JOIN project USING (project_id) WHERE origin = 'labels'
    )
"""
_WANTED = """
SELECT digest, url, (SELECT MIN(task_id) FROM task WHERE task.digest = url.digest) FROM url
WHERE digest > ? AND sha256 IS NULL AND (reason IS NULL OR passing OR ?) AND EXISTS (
    SELECT 1 FROM task JOIN annotation USING (project_id, task_id)
    WHERE task.digest = url.digest AND answer IN ('class', 'unusable', 'not_sure')
) ORDER BY digest LIMIT 100
"""
_ANNOTATORS = """
SELECT DISTINCT annotator FROM annotation JOIN project USING (project_id)
WHERE origin = 'labels' AND NOT ground_truth
"""
_EVERYTHING = """
SELECT sample_id, task.project_id, task.task_id, origin, annotation_id, annotator, answer, label, ground_truth,
    was_cancelled, lead_time_s, created_at, annotation.updated_at, url, sha256, reason, problem, asked_as, suggestion,
    asked_by_run
FROM task CROSS JOIN annotation USING (project_id, task_id) JOIN project USING (project_id) LEFT JOIN url USING (digest)
ORDER BY sample_id, task.project_id, task.task_id, annotation_id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How far reading of one project has come."""

    origin: Origin
    reading: str
    """Digest of everything that decides what is made of a task when it is read."""
    cursor: str
    """Every change up to this `updated_at` is here, once `loaded`; empty before the first change."""
    through: int
    """Tasks up to this id are here, of the first load."""
    loaded: bool
    """Whether the first load has come to its end."""
    state: str
    """How the project looked when it was last read to its end; empty where a reading has not ended."""
    reconciled_at: datetime | None
    """When every task was last compared with Label Studio's, by this machine's clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One task as the mirror keeps it: also one that cannot be read, for its problem, and to be compared."""

    project_id: int
    task_id: int
    sample_id: str
    annotations: tuple[Annotation, ...]
    image_url: str | None
    question: Question
    updated_at: str
    """In UTC with microseconds, so that times compare as texts; empty where Label Studio gave none."""
    answers: int
    """Annotations that are not skipped, whether they can be read or not: what Label Studio counts."""
    entries: int
    """All annotations; none of a task that has nothing but drafts."""
    problems: tuple[tuple[str, str], ...] = ()
    """(reason, where) of what cannot be read."""


class Mirror:
    """A context manager. One process at a time (`writer.exclusive_pull`). Raises `DataError` where it is damaged."""

    def __init__(self, path: Path, *, patience_s: float = 60.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
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
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise OSError(
                    errno.ENOSPC, f"cannot be written ({error}); is the disk full?", str(self._path)
                ) from None
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise DataError(f"{self._path} is in use by another pull; run it again when that has ended") from None
            raise
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self._path} is damaged ({error}); remove it: the next pull reads it anew") from None

    @classmethod
    @contextmanager
    def existing(cls, data_dir: Path) -> Iterator[Self | None]:
        """The mirror below `data_dir`; None where no pull has made one. Raises `DataError` where one is under way."""
        path = mirror_path(data_dir)
        if not path.exists():
            yield None
            return
        with cls(path, patience_s=0.5) as mirror:
            yield mirror

    def _make_tables(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, MIRROR_VERSION):
            names = self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in names:
                self._database.execute(f'DROP TABLE "{name}"')
        if version != MIRROR_VERSION:
            self._database.executescript(_TABLES)
            self._database.execute(f"PRAGMA user_version = {MIRROR_VERSION}")

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

    # How far reading has come --------------------------------------------------------------------------------------

    def standings(self) -> list[Standing]:
        """Of every project that was begun."""
        numbers = self._database.execute("SELECT project_id FROM project ORDER BY project_id").fetchall()
        return [found for (number,) in numbers if (found := self.standing(number)) is not None]

    def standing(self, project_id: int) -> Standing | None:
        """None of a project that was never begun."""
        found = self._database.execute(
            "SELECT origin, reading, cursor, through, loaded, state, reconciled_at FROM project WHERE project_id = ?",
            (project_id,),
        ).fetchone()
        if found is None:
            return None
        origin, reading, cursor, through, loaded, state, at = found
        return Standing(
            origin=origin,
            reading=reading,
            cursor=cursor,
            through=through,
            loaded=bool(loaded),
            state=state,
            reconciled_at=datetime.fromisoformat(at) if at else None,
        )

    def stand(self, project_id: int, standing: Standing) -> None:
        """Record how far reading has come; writes nothing where that is known."""
        if self.standing(project_id) == standing:
            return
        at = standing.reconciled_at.isoformat() if standing.reconciled_at else ""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO project VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    project_id,
                    standing.origin,
                    standing.reading,
                    standing.cursor,
                    standing.through,
                    standing.loaded,
                    standing.state,
                    at,
                ),
            )

    def begin(self, project_id: int, standing: Standing) -> None:
        """Forget everything of the project, and start reading it anew."""
        self._forget(project_id)
        self.stand(project_id, standing)

    def keep_only(self, project_ids: Collection[int]) -> None:
        """Forget every project but these."""
        for (project_id,) in self._database.execute("SELECT project_id FROM project").fetchall():
            if project_id not in project_ids:
                self._forget(project_id)

    def _forget(self, project_id: int) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM task WHERE project_id = ?", (project_id,))
            database.execute("DELETE FROM annotation WHERE project_id = ?", (project_id,))
            database.execute("DELETE FROM problem WHERE project_id = ?", (project_id,))
            database.execute("DELETE FROM project WHERE project_id = ?", (project_id,))
            self._touch()

    # Tasks ---------------------------------------------------------------------------------------------------------

    def put(self, project_id: int, rows: Iterable[Row], *, gone: Iterable[int] = (), through: int | None = None) -> int:
        """Keep these tasks as they are now and drop those that are `gone`, in one transaction; → how many changed.

        A task that comes twice, or as it is here already, changes nothing. `through` is noted with the same commit.
        """
        changed = 0
        with self._transaction() as database:
            for row in rows:
                changed += self._put(row)
            for task_id in gone:
                changed += self._drop(project_id, task_id)
            if changed:
                self._touch()
            if through is not None:
                database.execute("UPDATE project SET through = ? WHERE project_id = ?", (through, project_id))
        return changed

    def _put(self, row: Row) -> bool:
        key = (row.project_id, row.task_id)
        annotations = [_annotation_row(key, each) for each in row.annotations]
        url = None if row.image_url is None else _storable(row.image_url)
        question = row.question
        head = (row.sample_id, question.asked_as, question.suggestion, question.asked_by_run)
        said = repr((head, url, row.updated_at, row.answers, row.entries, annotations, row.problems))
        content = hashlib.sha256(said.encode("utf-8", "replace")).digest()
        known = self._database.execute("SELECT content FROM task WHERE project_id = ? AND task_id = ?", key).fetchone()
        if known is not None and known[0] == content:
            return False
        digest = None
        if url is not None:
            digest = hashlib.sha256(url.encode()).digest()
            self._database.execute("INSERT OR IGNORE INTO url (digest, url) VALUES (?, ?)", (digest, url))
        self._database.execute(
            "INSERT OR REPLACE INTO task VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, row.sample_id, row.sample_id, digest, *head[1:], row.updated_at, row.answers, row.entries, content),
        )
        if known is not None:
            self._database.execute(
                "DELETE FROM annotation WHERE project_id = ? AND task_id = ? AND annotation_id > 0", key
            )
            self._database.execute("DELETE FROM problem WHERE project_id = ? AND task_id = ?", key)
        self._database.executemany(
            "INSERT OR REPLACE INTO annotation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", annotations
        )
        self._database.executemany("INSERT INTO problem VALUES (?, ?, ?, ?)", ((*key, *each) for each in row.problems))
        return True

    def _drop(self, project_id: int, task_id: int) -> bool:
        key = (project_id, task_id)
        found = self._database.execute("DELETE FROM task WHERE project_id = ? AND task_id = ?", key).rowcount
        if found:
            self._database.execute("DELETE FROM annotation WHERE project_id = ? AND task_id = ?", key)
            self._database.execute("DELETE FROM problem WHERE project_id = ? AND task_id = ?", key)
        return bool(found)

    def put_drafts(self, project_id: int, rows: Iterable[Row]) -> None:
        """Keep these drafts (annotations with ids below 0) of the project, and no others."""
        with self._transaction() as database:
            before = self._drafts(project_id)
            database.execute("DELETE FROM annotation WHERE project_id = ? AND annotation_id < 0", (project_id,))
            database.execute("DELETE FROM task WHERE project_id = ? AND entries = 0", (project_id,))
            for row in rows:
                key = (row.project_id, row.task_id)
                if not database.execute("SELECT 1 FROM task WHERE project_id = ? AND task_id = ?", key).fetchone():
                    self._put(replace(row, annotations=()))
                database.executemany(
                    "INSERT OR REPLACE INTO annotation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (_annotation_row(key, each) for each in row.annotations),
                )
            if self._drafts(project_id) != before:
                self._touch()

    def _drafts(self, project_id: int) -> list[Any]:
        return self._database.execute(
            "SELECT * FROM annotation WHERE project_id = ? AND annotation_id < 0 ORDER BY task_id, annotation_id",
            (project_id,),
        ).fetchall()

    def counts(self, project_id: int) -> tuple[int, int]:
        """(tasks, annotations that are not skipped) of the project."""
        tasks, answers = self._database.execute(
            "SELECT COUNT(*), COALESCE(SUM(answers), 0) FROM task WHERE project_id = ? AND entries > 0", (project_id,)
        ).fetchone()
        return int(tasks), int(answers)

    def time_of(self, project_id: int, task_id: int) -> str | None:
        """`updated_at` of one task as it is here; None where it is not."""
        found = self._database.execute(
            "SELECT updated_at FROM task WHERE project_id = ? AND task_id = ?", (project_id, task_id)
        ).fetchone()
        return None if found is None else str(found[0])

    def unread(self, project_id: int) -> list[int]:
        """Tasks that Label Studio gave no time of, since it could not show them."""
        found = self._database.execute(
            "SELECT task_id FROM task WHERE project_id = ? AND updated_at = '' AND entries > 0 ORDER BY task_id",
            (project_id,),
        )
        return [int(number) for (number,) in found]

    def times(self, project_id: int) -> Iterator[tuple[int, str]]:
        """(id, `updated_at`) of every task of the project, by id."""
        with closing(self._database.cursor()) as cursor:
            yield from cursor.execute(
                "SELECT task_id, updated_at FROM task WHERE project_id = ? AND entries > 0 ORDER BY task_id",
                (project_id,),
            )

    # Images --------------------------------------------------------------------------------------------------------

    def wanted(self, *, again: bool = False) -> Iterator[tuple[str, int]]:
        """(URL, a task that shows it) of every image to be fetched, of tasks that somebody has said something of.

        Those never asked for, and those whose host did not answer; `again`: all that there is no image of. Outcomes may
        be set meanwhile.
        """
        last = b""
        while page := self._database.execute(_WANTED, (last, again)).fetchall():
            yield from ((url, task_id) for _, url, task_id in page)
            last = page[-1][0]

    def set_images(self, found: Iterable[tuple[str, str | ImageError]]) -> None:
        """Note the hash of the image behind each URL, or why there is none; in one transaction."""
        with self._transaction() as database:
            for url, image in found:
                digest = hashlib.sha256(url.encode()).digest()
                values: tuple[Any, ...] = (image, None, None, None)
                if isinstance(image, ImageError):
                    values = (None, image.reason, str(image), image.passing)
                changed = database.execute(
                    "UPDATE url SET sha256 = ?, reason = ?, problem = ?, passing = ? WHERE digest = ? AND "
                    "(sha256 IS NOT ? OR reason IS NOT ? OR problem IS NOT ? OR passing IS NOT ?)",
                    (*values, digest, *values),
                ).rowcount
                if changed:
                    self._touch()

    def unsettled(self) -> int:
        """Images and tasks that may be had another time: their server did not answer, or failed."""
        images = self._database.execute("SELECT COUNT(*) FROM url WHERE passing").fetchone()[0]
        tasks = self._database.execute("SELECT COUNT(*) FROM task WHERE updated_at = '' AND entries > 0").fetchone()[0]
        return int(images) + int(tasks)

    def forget_images(self) -> None:
        """Ask for every image anew: some are no longer in the store."""
        with self._transaction() as database:
            database.execute("UPDATE url SET sha256 = NULL, reason = NULL, problem = NULL, passing = NULL")
            self._touch()

    def link_by_image(self) -> int:
        """Give audited tasks whose sample nobody labelled the id of the one labelled sample with the same image."""
        with self._transaction() as database:
            database.execute("UPDATE task SET sample_id = own_id WHERE sample_id IS NOT own_id")
            before = database.total_changes  # a cursor's rowcount does not see past the WITH
            database.execute(_LINK)
            return database.total_changes - before

    # What people said ----------------------------------------------------------------------------------------------

    def annotators(self) -> frozenset[str]:
        """Who labels in the labels project: everybody with an annotation there that is not ground truth."""
        return frozenset(str(name) for (name,) in self._database.execute(_ANNOTATORS))

    def problems(self) -> Iterator[tuple[str, str]]:
        """(reason, where) of everything that could not be read, in a fixed order."""
        query = "SELECT reason, particulars FROM problem ORDER BY project_id, task_id, reason, particulars"
        yield from self._database.execute(query)

    def samples(self) -> Iterator[tuple[str, list[Said]]]:
        """Every sample, by id, with all its annotations in a fixed order."""
        with closing(self._database.cursor()) as cursor:
            for sample_id, rows in groupby(cursor.execute(_EVERYTHING), key=lambda row: str(row[0])):
                yield sample_id, [_said(row) for row in rows]

    # What was written from it --------------------------------------------------------------------------------------

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
        found = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def note(self, name: str, value: str) -> None:
        """Remember a text for the next pull, such as what was written from which generation."""
        if self._meta(name) != value:
            with self._transaction() as database:
                database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """What was noted; None where nothing was."""
        return self._meta(name)


def mirror_path(data_dir: Path) -> Path:
    """Where the mirror of a workspace lies."""
    return data_dir / "mirror.sqlite"


def reading_of(*parts: Any) -> str:
    """A digest of what decides how tasks are read."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def started(standing: Standing, *, cursor: str) -> Standing:
    """The standing of a project of which nothing has been read, changed up to `cursor`."""
    return replace(standing, cursor=cursor, through=0, loaded=False, state="", reconciled_at=None)


def _annotation_row(key: tuple[int, int], annotation: Annotation) -> tuple[Any, ...]:
    return (
        *key,
        annotation.annotation_id,
        _storable(annotation.annotator),
        annotation.kind,
        None if annotation.label is None else _storable(annotation.label),
        annotation.ground_truth,
        annotation.was_cancelled,
        annotation.lead_time_s,
        _utc(annotation.created_at).isoformat(),
        _utc(annotation.updated_at).isoformat(),
    )


def _said(row: Sequence[Any]) -> Said:
    (_, project_id, task_id, origin, annotation_id, annotator, answer, label, ground_truth) = row[:9]
    (was_cancelled, lead_time_s, created_at, updated_at, url, sha256, reason, problem) = row[9:17]
    (asked_as, suggestion, asked_by_run) = row[17:]
    return Said(
        project_id=project_id,
        task_id=task_id,
        answer=Answer(
            annotation_id=annotation_id,
            annotator=annotator,
            kind=answer,
            label=label,
            updated_at=datetime.fromisoformat(updated_at),
            origin=origin,
            ground_truth=bool(ground_truth),
            asked_as=asked_as,
        ),
        was_cancelled=bool(was_cancelled),
        lead_time_s=lead_time_s,
        created_at=datetime.fromisoformat(created_at),
        image=TaskImage(
            url=url or "",
            sha256=sha256,
            reason=reason or ("" if sha256 else "task has no image"),
            problem=problem or "",
        ),
        suggestion=suggestion,
        asked_by_run=asked_by_run,
    )


def _storable(text: str) -> str:
    # JSON can spell half a surrogate pair; UTF-8, and so SQLite and Parquet, cannot.
    return text.encode("utf-8", "replace").decode()


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
