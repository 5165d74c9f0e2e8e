"""The stages that reach people: order what they should look at, and put it into their queue."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from pipeline import queue, scoring
from pipeline.errors import DataError
from pipeline.label_studio import LabelStudio
from pipeline.loop.survey import Found, Pulled, find_review_project, review_title
from pipeline.records import Project, ReviewTask
from pipeline.review_screen import review_config
from pipeline.settings import Settings
from pipeline.snapshot import open_snapshot
from pipeline.snapshot.pull import check_same_classes
from pipeline.triage import choose_queue
from pipeline.workspace import ReviewQueue, Workspace, write_whole

_QUEUE = TypeAdapter(list[ReviewTask])


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What the queue holds now."""

    title: str
    """Of the review project."""
    added: int
    waiting: int
    """Tasks that nobody has answered."""
    url: str = ""
    """Where a reviewer starts; empty while there is no review project."""


def triage_scores(pulled: Pulled, scores_path: Path) -> Path:
    """Order what people should look at, most valuable first; the path of `queue.json`."""
    scores = scoring.read_scores(scores_path)
    noisy = pq.read_table(open_snapshot(pulled.snapshot).noisy_path, columns=["sample_id", "image_url"])
    urls = dict(zip(noisy["sample_id"].to_pylist(), noisy["image_url"].to_pylist(), strict=True))
    tasks = choose_queue(
        scoring.candidates(scores, urls), key=lambda sample: queue.push_key(pulled.labels.project_id, sample)
    )
    path = scores_path.with_name("queue.json")
    write_whole(path, _QUEUE.dump_json(tasks))
    return path


def push_queue(settings: Settings, found: Found, queue_path: Path, *, dry_run: bool = False) -> Pushed:
    """Add to the reviewers' queue what it lacks, up to its size; the review project is made if missing.

    With `dry_run` nothing is made or sent, and the figures are what they would be.
    """
    try:
        tasks = _QUEUE.validate_json(queue_path.read_bytes())
    except (OSError, ValidationError):
        raise DataError(f"{queue_path} is missing or damaged: run `fasten retrain` again") from None
    workspace = Workspace.of(settings, found.labels.project_id)
    with workspace.one_writer(), LabelStudio(settings.label_studio) as door:
        review = find_review_project(settings, door, found.labels)
        if review is None:
            title = review_title(settings, found.labels)
            if dry_run:
                return Pushed(title=title, added=min(len(tasks), settings.queue_size), waiting=0)
            review = door.create_project(
                title,
                review_config(found.labels.control.classes),
                uncertainty_sampling=True,
                skipping=False,  # “not sure” is an answer, and says more than a skip
                empty_answers=False,
                description=f"Labels of “{found.labels.title}” that the model doubts, the most doubtful first.",
            )
        check_same_classes(found.labels, review, role="review")
        if not dry_run:
            workspace.remember_queue(ReviewQueue(setting=settings.review_project or "", project_id=review.project_id))
        waiting = door.unanswered(review)
        room = max(0, settings.queue_size - waiting)
        added = queue.push(door, review, tasks, limit=room, dry_run=dry_run).added
    return Pushed(
        title=review.title,
        added=added,
        waiting=waiting if dry_run else waiting + added,
        url=queue_url(settings.label_studio.url, review),
    )


def queue_url(label_studio_url: str, review: Project) -> str:
    """Where a reviewer starts."""
    return f"{label_studio_url}/projects/{review.project_id}/data?labeling=1"
