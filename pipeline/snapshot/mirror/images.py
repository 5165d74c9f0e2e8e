"""Every image address, and what came of fetching it."""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from pipeline.images.again import passing_since
from pipeline.images.check import ImageError
from pipeline.snapshot.mirror.file import MirrorFile

# An audited task of its own belongs to the one labelled sample that shows the same bytes; where several do, to none.
LINK = """
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
# Somebody has said something of a sample that shows it.
_NEEDED = """EXISTS (
    SELECT 1 FROM task JOIN annotation USING (project_id, task_id)
    WHERE task.digest = url.digest AND answer IN ('class', 'unusable', 'not_sure')
)"""
WANTED = f"""
SELECT digest, url, (SELECT MIN(task_id) FROM task WHERE task.digest = url.digest) FROM url
WHERE digest > ? AND sha256 IS NULL AND {{}} AND {_NEEDED} ORDER BY digest LIMIT 100
"""  # noqa: S608 - nothing of it comes from outside
UNSETTLED = f"SELECT COUNT(*) FROM url WHERE passing > 0 AND {_NEEDED}"  # noqa: S608


class ImageOutcomes(MirrorFile):
    """Part of `Mirror`."""

    def wanted(self) -> Iterator[tuple[str, int]]:
        """(URL, a task that shows it) of each image never asked for, of tasks that somebody has said something of.

        Outcomes may be set meanwhile.
        """
        return self._addresses("reason IS NULL")

    def failing(self, *, everything: bool = False) -> Iterator[tuple[str, int]]:
        """The same of those that fail in a way that may pass; with `everything` of all that could not be had."""
        return self._addresses("reason IS NOT NULL" if everything else "passing > 0")

    def _addresses(self, condition: str) -> Iterator[tuple[str, int]]:
        query, last = WANTED.format(condition), b""
        while page := list(self._rows(query, (last,))):
            yield from ((url, task_id) for _, url, task_id in page)
            last = page[-1][0]

    def set_images(self, found: Iterable[tuple[str, str | ImageError]], *, now: datetime | None = None) -> None:
        """Note the hash of the image behind each URL, or why there is none; in one transaction."""
        now = now or datetime.now(UTC)
        with self._transaction() as database:
            for url, image in found:
                digest = hashlib.sha256(url.encode()).digest()
                values: tuple[Any, ...] = (image, None, None, None)
                if isinstance(image, ImageError):
                    known = database.execute("SELECT passing FROM url WHERE digest = ?", (digest,)).fetchone()
                    since = (known[0] if known else None) or 0
                    values = (None, image.reason, str(image), passing_since(image, since, now))
                changed = database.execute(
                    "UPDATE url SET sha256 = ?, reason = ?, problem = ?, passing = ? WHERE digest = ? AND "
                    "(sha256 IS NOT ? OR reason IS NOT ? OR problem IS NOT ? OR passing IS NOT ?)",
                    (*values, digest, *values),
                ).rowcount
                if changed:
                    self._touch()

    def unsettled(self) -> int:
        """Images and tasks that may be had another time: their server did not answer, or failed."""
        (images,) = self._row(UNSETTLED)
        (tasks,) = self._row("SELECT COUNT(*) FROM task WHERE updated_at = '' AND entries > 0")
        return int(images) + int(tasks)

    def forget_images(self) -> None:
        """Ask anew for every image that was there: some are no longer in the store. What has failed still has."""
        with self._transaction() as database:
            database.execute("UPDATE url SET sha256 = NULL WHERE sha256 IS NOT NULL")
            self._touch()

    def link_by_image(self) -> int:
        """Give audited tasks whose sample nobody labelled the id of the one labelled sample with the same image."""
        with self._transaction() as database:
            database.execute("UPDATE task SET sample_id = own_id WHERE sample_id IS NOT own_id")
            before = database.total_changes  # a cursor's rowcount does not see past the WITH
            database.execute(LINK)
            return database.total_changes - before
