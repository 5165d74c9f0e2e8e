"""Where one labels project's files lie, what a run is called, and what the last completed round was done with.

<data>/project-7/                 everything of labels project 7
    snapshots/ images/ latest.json    (pipeline.snapshot, pipeline.images.store)
    runs/<run key>/                   model/ fitted.json scores.parquet queue.json report.json report.md
    completed.json                    the last completed round
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import DataError
from pipeline.records import ProjectState
from pipeline.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """The last round that came to its end."""

    fingerprint: str
    """Of the projects' states just before its pull."""
    snapshot_id: str
    config: str
    """Hash of the configuration it ran with."""
    run_key: str


_COMPLETED = TypeAdapter(Completed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """The folder of one labels project."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings, labels_project_id: int) -> "Workspace":
        """The workspace of a labels project; it need not exist yet."""
        return cls(folder=settings.data_folder.absolute() / f"project-{labels_project_id}")

    def run_folder(self, run_key: str) -> Path:
        """Where the run of that key keeps its files."""
        return self.folder / "runs" / run_key

    def completed(self) -> Completed | None:
        """The last completed round; None before the first. Raises `DataError` where its record cannot be read."""
        path = self.folder / "completed.json"
        try:
            return _COMPLETED.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise DataError(f"{path} is damaged: remove it, and the next round does everything again") from None

    def remember(self, completed: Completed) -> None:
        """Record a round as completed: the last thing that it does."""
        write_whole(self.folder / "completed.json", _COMPLETED.dump_json(completed, indent=2))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old one, the new one, and nothing in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_bytes(content)
    staged.replace(path)


def fingerprint(states: Mapping[str, ProjectState]) -> str:
    """Equal where nothing in the projects (by role) has changed.

    A review project that nobody has answered in counts as none: creating it and filling it are our own doing.
    """
    seen = {
        role: [state.project_id, state.tasks, state.annotations, state.newest_change]
        for role, state in sorted(states.items())
        if role != "review" or state.annotations
    }
    return _digest(seen)


def config_digest(settings: Settings) -> str:
    """Hash of everything besides the labels that decides what a round does."""
    return _digest(
        {
            "training": asdict(settings.training),
            "queue_size": settings.queue_size,
            "holdout": settings.holdout,
            "version": version("fasten"),
        }
    )


def run_key(snapshot_id: str, settings: Settings) -> str:
    """Names the training of one snapshot with one configuration: the same work has the same key."""
    training = {"training": asdict(settings.training), "holdout": settings.holdout, "version": version("fasten")}
    return f"{snapshot_id[:12]}-{_digest([snapshot_id, training])[:12]}"


def _digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
