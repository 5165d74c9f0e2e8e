"""Where one pull keeps what it has read until every image and every link is known: a SQLite file, thrown away after.

Tasks come in whatever order Label Studio pages them; samples leave sorted, with everything that was said of them. A
hundred thousand tasks thus cost disk, not memory.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.images.check import ImageError
from pipeline.records import Annotation, Origin, Task
from pipeline.snapshot.consensus import Answer
from pipeline.snapshot.question import Question

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE url (digest BLOB PRIMARY KEY, url TEXT NOT NULL, sha256 TEXT, reason TEXT, problem TEXT) WITHOUT ROWID;
CREATE TABLE task (
    project_id INT, task_id INT, origin TEXT, sample_id TEXT, digest BLOB, asked_as TEXT, suggestion TEXT,
    asked_by_run TEXT, PRIMARY KEY (project_id, task_id)
) WITHOUT ROWID;
CREATE TABLE annotation (
    project_id INT, task_id INT, annotation_id INT, annotator TEXT, answer TEXT, label TEXT, ground_truth INT,
    was_cancelled INT, lead_time_s REAL, created_at TEXT, updated_at TEXT,
    PRIMARY KEY (project_id, task_id, annotation_id)
) WITHOUT ROWID;
CREATE INDEX by_digest ON task (digest);
CREATE INDEX by_sample ON task (sample_id, project_id, task_id);
"""
# An audited task of its own belongs to the one labelled sample that shows the same bytes; where several do, to none.
_LINK = """
WITH bulk AS (
    SELECT url.sha256 AS sha256, MIN(sample_id) AS sample_id FROM task JOIN url USING (digest)
    WHERE origin = 'labels' AND sha256 IS NOT NULL GROUP BY url.sha256 HAVING COUNT(DISTINCT sample_id) = 1
)
UPDATE task SET sample_id = bulk.sample_id FROM bulk JOIN url ON url.sha256 = bulk.sha256
WHERE task.digest = url.digest AND task.origin = 'audit'
    AND task.sample_id NOT IN (SELECT sample_id FROM task WHERE origin = 'labels')
"""
_URLS = """
SELECT digest, url FROM url WHERE digest > ? AND EXISTS (
    SELECT 1 FROM task JOIN annotation USING (project_id, task_id)
    WHERE task.digest = url.digest AND answer IN ('class', 'unusable', 'not_sure')
) ORDER BY digest LIMIT 100
"""
_ANNOTATORS = """
SELECT DISTINCT annotator FROM annotation JOIN task USING (project_id, task_id)
WHERE origin = 'labels' AND NOT ground_truth
"""
_EVERYTHING = """
SELECT sample_id, task.project_id, task.task_id, origin, annotation_id, annotator, answer, label, ground_truth,
    was_cancelled, lead_time_s, created_at, updated_at, url, sha256, reason, problem, asked_as, suggestion,
    asked_by_run
FROM task CROSS JOIN annotation USING (project_id, task_id) LEFT JOIN url USING (digest)
ORDER BY sample_id, task.project_id, task.task_id, annotation_id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskImage:
    """The image of one task: its hash, or why it has none."""

    url: str
    sha256: str | None
    reason: str
    """Why there is no image, to be counted by; empty where there is one."""
    problem: str
    """The same with its particulars."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One annotation of one task, as it was staged."""

    project_id: int
    task_id: int
    answer: Answer
    was_cancelled: bool
    lead_time_s: float | None
    created_at: datetime
    image: TaskImage
    suggestion: str | None = None
    """The class that was pre-selected on the screen; None where none was."""
    asked_by_run: str | None = None


class Staging:
    """What one pull has read so far. A context manager; the file goes with its folder."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "staging.sqlite")
        self._database.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, task: Task, origin: Origin, image_url: str | None, question: Question) -> None:
        """Keep a task and its annotations; one that comes twice (pages shift while people work) replaces itself."""
        digest = None
        if image_url is not None:
            image_url = _storable(image_url)
            digest = hashlib.sha256(image_url.encode()).digest()
            self._database.execute("INSERT OR IGNORE INTO url (digest, url) VALUES (?, ?)", (digest, image_url))
        key = (task.project_id, task.task_id)
        self._database.execute(
            "INSERT OR REPLACE INTO task VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                origin,
                task.sample_id,
                digest,
                question.asked_as,
                question.suggestion,
                question.asked_by_run,
            ),
        )
        self._database.execute("DELETE FROM annotation WHERE project_id = ? AND task_id = ?", key)
        self._database.executemany(
            "INSERT OR REPLACE INTO annotation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (_row(task, annotation) for annotation in task.annotations),
        )

    def urls(self) -> Iterator[str]:
        """Every image URL, once, of tasks that somebody has said something of. Images may be set meanwhile."""
        last = b""
        while page := self._database.execute(_URLS, (last,)).fetchall():
            yield from (url for _, url in page)
            last = page[-1][0]

    def set_image(self, url: str, image: str | ImageError) -> None:
        """Note the hash of the image behind `url`, or why there is none."""
        found = (image, None, None) if isinstance(image, str) else (None, image.reason, str(image))
        self._database.execute(
            "UPDATE url SET sha256 = ?, reason = ?, problem = ? WHERE digest = ?",
            (*found, hashlib.sha256(url.encode()).digest()),
        )

    def link_by_image(self) -> int:
        """Give audited tasks whose sample nobody labelled the id of the one labelled sample with the same image."""
        before = self._database.total_changes  # a cursor's rowcount does not see past the WITH
        self._database.execute(_LINK)
        return self._database.total_changes - before

    def annotators(self) -> frozenset[str]:
        """Who labels in the labels project: everybody with an annotation there that is not ground truth."""
        return frozenset(str(name) for (name,) in self._database.execute(_ANNOTATORS))

    def samples(self) -> Iterator[tuple[str, list[Said]]]:
        """Every sample, by id, with all its annotations in a fixed order."""
        with closing(self._database.cursor()) as cursor:
            for sample_id, rows in groupby(cursor.execute(_EVERYTHING), key=lambda row: str(row[0])):
                yield sample_id, [_said(row) for row in rows]


def _row(task: Task, annotation: Annotation) -> tuple[Any, ...]:
    return (
        task.project_id,
        task.task_id,
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


def _said(row: tuple[Any, ...]) -> Said:
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
