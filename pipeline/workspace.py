"""Where one labels project's files lie, what a run is called, and what the last completed round was done with.

<data>/project-7/                 everything of labels project 7
    snapshots/ images/ latest.json    (pipeline.snapshot, pipeline.images.store)
    runs/<run key>/                   model/ fitted.json scores.parquet queue.json report.json report.md
    decoded/                          images as training and scoring see them; may be removed at any time
    completed.json                    the last completed round
    review_project.json               which project its queue is
    project.json                      which labels project it is of: two servers may each have a project 7
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ConfigError, DataError
from pipeline.one_at_a_time import one_at_a_time
from pipeline.records import LabelControl, Project, ProjectState
from pipeline.schema import SCHEMA_VERSION
from pipeline.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """The last round that came to its end."""

    fingerprint: str
    """Of the projects' states just before its pull."""
    snapshot_id: str
    config: str
    """Hash of the configuration it ran with."""
    run_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewQueue:
    """The review project of a labels project, known by its id: people rename projects."""

    setting: str
    """What FASTEN_REVIEW_PROJECT said when it was found or made; empty for the title of our own choice."""
    project_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkedOn:
    """The labels project that a workspace is of."""

    created_at: str
    """In UTC, by Label Studio: what no other project of that number has in common with it."""
    title: str
    """When it was first pulled."""
    url: str
    """Of Label Studio then; servers move."""


OF_THE_QUEUE = ("mode", "queue_size", "review_minutes", "overlap", "audit_share", "check_share", "class_floor")
"""Settings that decide what people are asked, and not what is learnt."""

OF_THE_ANSWERS = ("leave_out_annotators", "skipped", "drafts")
"""Settings that decide which annotations a snapshot is made of."""

_COMPLETED = TypeAdapter(Completed)
_REVIEW_QUEUE = TypeAdapter(ReviewQueue)
_WORKED_ON = TypeAdapter(WorkedOn)


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

    @property
    def decoded(self) -> Path:
        """Where decoded images are kept (`fasten_model.images.cache`), for all snapshots."""
        return self.folder / "decoded"

    def completed(self) -> Completed | None:
        """The last completed round; None before the first. Raises `DataError` where its record cannot be read."""
        return _read(self.folder / "completed.json", _COMPLETED, "the next round does everything again")

    def remember(self, completed: Completed) -> None:
        """Record a round as completed: the last thing that it does."""
        write_whole(self.folder / "completed.json", _COMPLETED.dump_json(completed, indent=2))

    @property
    def review_queue_file(self) -> Path:
        """Where the review project's id is kept."""
        return self.folder / "review_project.json"

    def review_queue(self) -> ReviewQueue | None:
        """The review project that earlier rounds filled; None before the first."""
        return _read(self.review_queue_file, _REVIEW_QUEUE, "the review project is found by its title again")

    def remember_queue(self, review: ReviewQueue) -> None:
        """Record which review project is filled."""
        if self.review_queue() != review:
            write_whole(self.review_queue_file, _REVIEW_QUEUE.dump_json(review, indent=2))

    def check_project(self, labels: Project) -> None:
        """Raise `ConfigError` where this is the workspace of another labels project of the same number."""
        path = self.folder / "project.json"
        known = _read(path, _WORKED_ON, "the next pull writes it again")
        if known is not None and labels.created_at and known.created_at != labels.created_at:
            raise ConfigError(
                f"{self.folder} is of “{known.title}” at {known.url}, not of “{labels.title}”, another project of the "
                f"number {labels.project_id}: set FASTEN_DATA_DIR to another folder, or remove {path} if it is the same"
            )

    def remember_project(self, labels: Project, url: str) -> None:
        """Record which labels project this is of, where that is not known yet."""
        path = self.folder / "project.json"
        if labels.created_at and not path.exists():
            worked_on = WorkedOn(created_at=labels.created_at, title=labels.title, url=url)
            write_whole(path, _WORKED_ON.dump_json(worked_on, indent=2))

    @contextmanager
    def one_writer(self) -> Iterator[None]:
        """One push at a time: what is looked up must still hold when it is sent.

        Raises `FastenError` where another process of this machine goes on for too long (`one_at_a_time`).
        """
        with one_at_a_time(self.folder / ".push.lock", what=f"another push from {self.folder}"):
            yield


def _read(path: Path, adapter: TypeAdapter[T], otherwise: str) -> T | None:
    try:
        return adapter.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):  # where a file is in a folder's place, the first write says so
        return None
    except (OSError, ValidationError):
        raise DataError(f"{path} is damaged: remove it, and {otherwise}") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old one, the new one, and nothing in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_bytes(content)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def fingerprint(states: Mapping[str, ProjectState], control: LabelControl) -> str:
    """Equal where nothing in the projects (by role) has changed, nor how its labels are read and kept.

    A review project that nobody has answered in counts as none: creating it and filling it are our own doing.
    """
    seen: dict[str, Any] = {
        role: [state.project_id, state.tasks, state.annotations, state.newest_change, *filter(None, [state.drafts])]
        for role, state in sorted(states.items())
        if role != "review" or state.annotations
    }
    return _digest({**seen, "control": asdict(control), "schema_version": SCHEMA_VERSION})


def config_digest(settings: Settings) -> str:
    """Hash of everything besides the labels that decides what a round does."""
    return _digest(
        {
            **_training(settings),
            **{name: getattr(settings, name) for name in OF_THE_QUEUE},
            "images": asdict(settings.images),
            "review_project": settings.review_project,
            **{name: getattr(settings, name) for name in OF_THE_ANSWERS},
        }
    )


def run_key(snapshot_id: str, settings: Settings) -> str:
    """Names the training of one snapshot with one configuration: the same work has the same key."""
    return f"{snapshot_id[:12]}-{_digest([snapshot_id, _training(settings)])[:12]}"


def _training(settings: Settings) -> dict[str, Any]:
    """Everything that training depends on besides the labels: what the preset stands for, too."""
    config = settings.training
    choices = asdict(config)
    del choices["cuda_graphs"]  # how kernels are launched: no other training, and older runs' keys do not have it
    return {
        "training": choices,
        "preset": asdict(config.settings()),
        "holdout": settings.holdout,
        "folds": settings.audit_folds,
        "rho": settings.rho,
        "target_precision": settings.target_precision,
        "certainty": settings.certainty,
        "version": version("fasten"),
    }


def _digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
