"""How far reading of each project has come."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pipeline.records import Origin
from pipeline.snapshot.mirror.file import MirrorFile


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


def reading_of(*parts: Any) -> str:
    """A digest of what decides how tasks are read."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def started(standing: Standing, *, cursor: str) -> Standing:
    """The standing of a project of which nothing has been read, changed up to `cursor`."""
    return replace(standing, cursor=cursor, through=0, loaded=False, state="", reconciled_at=None)


class Standings(MirrorFile):
    """Part of `Mirror`."""

    def standings(self) -> list[Standing]:
        """Of every project that was begun."""
        numbers = list(self._rows("SELECT project_id FROM project ORDER BY project_id"))
        return [found for (number,) in numbers if (found := self.standing(number)) is not None]

    def standing(self, project_id: int) -> Standing | None:
        """None of a project that was never begun."""
        found = self._row(
            "SELECT origin, reading, cursor, through, loaded, state, reconciled_at FROM project WHERE project_id = ?",
            (project_id,),
        )
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
        for (project_id,) in list(self._rows("SELECT project_id FROM project")):
            if project_id not in project_ids:
                self._forget(project_id)

    def _forget(self, project_id: int) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM task WHERE project_id = ?", (project_id,))
            database.execute("DELETE FROM annotation WHERE project_id = ?", (project_id,))
            database.execute("DELETE FROM problem WHERE project_id = ?", (project_id,))
            database.execute("DELETE FROM project WHERE project_id = ?", (project_id,))
            self._touch()
