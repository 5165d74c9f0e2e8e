"""Snapshots made by hand: who has said what of which sample."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.snapshot import Snapshot
from pipeline.snapshot.folder import SCHEMAS
from pipeline.snapshot.writer import SnapshotWriter, exclusive_pull

CLASSES = ("3", "5", "8")
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Desk:
    """Collects rows, numbers them, and writes the snapshot."""

    folder: Path
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def says(self, person: str, sample: str, what: str, *, origin: str = "review", **more: Any) -> None:
        """An answer: a class, or `unusable`, `not_sure`, `skipped`."""
        number = len(self.rows)
        kind = what if what in ("unusable", "not_sure", "skipped") else "class"
        row = {
            "sample_id": sample,
            "project_id": 1,
            "task_id": number,
            "annotation_id": number,
            "annotator": person,
            "answer": kind,
            "label": what if kind == "class" else None,
            "ground_truth": False,
            "was_cancelled": kind == "skipped",
            "lead_time_s": 2.0,
            "created_at": START,
            "updated_at": START + timedelta(minutes=number),
            "origin": origin,
            "asked_as": None,
            "suggestion": None,
            "asked_by_run": None,
        }
        self.rows.append(("labels", row | more))

    def noisy(self, sample: str, votes: dict[str, str]) -> None:
        """A sample that nobody has decided."""
        label = next(iter(votes.values()))
        row = {"sample_id": sample, "image_sha256": "0", "image_url": "/", "label": label, "votes": _votes(votes)}
        self.rows.append(("noisy", row))

    def clean(self, sample: str, label: str, votes: dict[str, str], provenance: str = "audit") -> None:
        """A sample that people have decided."""
        row = {
            "sample_id": sample,
            "image_sha256": "0",
            "label": label,
            "given_label": next(iter(votes.values()), None),
            "votes": _votes(votes),
            "provenance": provenance,
            "auditor": "user:9",
            "audited_at": START,
            "image_url": "/",
        }
        self.rows.append(("clean", row))

    def snapshot(self, classes: Iterable[str] = CLASSES) -> Snapshot:
        """All of it, as a pull would have written it."""
        with (
            exclusive_pull(self.folder) as staging,
            SnapshotWriter(staging / "snapshot", tuple(classes)) as writer,
        ):
            for table, row in self.rows:
                writer.add(table, {name: row.get(name) for name in SCHEMAS[table].names})
            return writer.finish(self.folder, rejected={}, projects=(), states=())[0]


def _votes(votes: dict[str, str]) -> list[dict[str, str]]:
    return [{"annotator": name, "label": label} for name, label in sorted(votes.items())]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(folder=tmp_path / "project-1")
