"""Who confuses what: each reviewer against the audited truth, each annotator's own transition matrix, for a lead.

`reviewers` reads the answers of the queue, `annotators` the votes behind the bulk labels, `page` shows both to people.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import scoring
from pipeline.errors import DataError
from pipeline.people.annotators import annotators_of
from pipeline.people.page import markdown
from pipeline.people.records import Annotator, Confusion, Mixup, People, Reviewer, Share
from pipeline.people.reviewers import reviewers_of
from pipeline.snapshot import Snapshot, open_snapshot
from pipeline.snapshot.folder import snapshot_folder
from pipeline.workspace import Workspace

__all__ = [
    "Annotator",
    "Confusion",
    "Mixup",
    "People",
    "Reviewer",
    "Share",
    "markdown",
    "people_of",
    "people_of_run",
    "summary",
]


def people_of(snapshot: Snapshot, scores: pa.Table | None) -> People:
    """What a snapshot and the scores of its noisy samples (`pipeline.scoring`) say of everybody behind its labels.

    Raises `DataError` where the scores are of other classes.
    """
    annotators, left_out, strength = annotators_of(snapshot, scores)
    return People(
        classes=snapshot.classes,
        reviewers=reviewers_of(snapshot),
        annotators=annotators,
        left_out=left_out,
        strength=strength,
    )


def people_of_run(run: Path) -> People:
    """Everybody, as of the last completed round, whose run folder this is. Raises `DataError` where it is damaged."""
    workspace = Workspace(folder=run.parent.parent)
    completed = workspace.completed()
    if completed is None:
        raise DataError(f"no round in {workspace.folder} has been completed yet: run `fasten retrain`")
    snapshot = open_snapshot(snapshot_folder(workspace.folder, completed.snapshot_id))
    return people_of(snapshot, scoring.read_scores(run / "scores.parquet"))


def summary(people: People) -> dict[str, Any]:
    """Everything as JSON values."""
    return asdict(people)
