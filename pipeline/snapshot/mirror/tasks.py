"""What was read of each task, kept so that the same thing read again changes nothing."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipeline.records import Annotation, Listed
from pipeline.snapshot.mirror.file import MirrorFile
from pipeline.snapshot.question import Question

_LARGEST_ID = 2**63 - 1


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


class KeptTasks(MirrorFile):
    """Part of `Mirror`."""

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

    def counts(self, project_id: int, *, after: int = 0, through: int | None = None) -> tuple[int, int]:
        """(tasks, annotations that are not skipped) of the project, with larger ids than `after`, up to `through`."""
        tasks, answers = self._row(
            "SELECT COUNT(*), COALESCE(SUM(answers), 0) FROM task "
            "WHERE project_id = ? AND task_id > ? AND task_id <= ? AND entries > 0",
            _range(project_id, after, through),
        )
        return int(tasks), int(answers)

    def nth(self, project_id: int, number: int, *, after: int = 0) -> int:
        """Id of the task that comes `number`-th after an id."""
        (found,) = self._row(
            "SELECT task_id FROM task WHERE project_id = ? AND task_id > ? AND task_id <= ? AND entries > 0 "
            "ORDER BY task_id LIMIT 1 OFFSET ?",
            (*_range(project_id, after, None), number - 1),
        )
        return int(found)

    def listed_as(self, project_id: int, task_id: int) -> Listed | None:
        """One task's time and counts as they are here; None where it is not."""
        found = self._row(
            "SELECT task_id, updated_at, answers, entries FROM task WHERE project_id = ? AND task_id = ?",
            (project_id, task_id),
        )
        return None if found is None else Listed(*found)

    def unread(self, project_id: int) -> list[int]:
        """Tasks that Label Studio gave no time of, since it could not show them."""
        found = self._rows(
            "SELECT task_id FROM task WHERE project_id = ? AND updated_at = '' AND entries > 0 ORDER BY task_id",
            (project_id,),
        )
        return [int(number) for (number,) in found]

    def listed(self, project_id: int, *, after: int = 0, through: int | None = None) -> Iterator[Listed]:
        """The project's tasks with larger ids than `after`, up to `through`, by id."""
        rows = self._rows(
            "SELECT task_id, updated_at, answers, entries FROM task "
            "WHERE project_id = ? AND task_id > ? AND task_id <= ? AND entries > 0 ORDER BY task_id",
            _range(project_id, after, through),
        )
        yield from map(Listed._make, rows)


def _range(project_id: int, after: int, through: int | None) -> tuple[int, int, int]:
    return project_id, after, _LARGEST_ID if through is None else through


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


def _storable(text: str) -> str:
    # JSON can spell half a surrogate pair; UTF-8, and so SQLite and Parquet, cannot.
    return text.encode("utf-8", "replace").decode()


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
