"""The questions that were put before people."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from pipeline.records import UNSHOWN, ReviewTask
from pipeline.trail.files import folder, one_writer, read_rows, safe_name, write_rows
from pipeline.trail.schema import ASKED
from pipeline.workspace import Workspace


def append_asked(
    workspace: Workspace, run_key: str, tasks: Iterable[ReviewTask], at: datetime, *, event: str = "add"
) -> int:
    """Keep the questions that a run has asked; → how many were not kept yet.

    Call it with every question of the run that is in the queue, sent now or by an attempt that died: one that is kept
    already is not kept twice. `event`: see `schema.ASKED`.
    """
    with one_writer(workspace):
        kept = {row["push_key"] for row in asked_rows(workspace, run_key=run_key)}
        new = {task.push_key: task for task in tasks if task.push_key not in kept}
        if not new:
            return 0
        number = len(_files(workspace, run_key))
        path = folder(workspace, "asked") / f"{safe_name(run_key)}-{number:04d}.parquet"
        rows = (_row(task, run_key, at) | {"event": event} for task in _by_sample(new.values()))
        return write_rows(path, ASKED, rows)


def asked_rows(
    workspace: Workspace, sample_id: str | None = None, *, run_key: str | None = None
) -> Iterator[dict[str, Any]]:
    """The questions of all runs or one, about all samples or one."""
    for path in _files(workspace, run_key):
        yield from read_rows(path, ASKED, sample_id=sample_id)


def _files(workspace: Workspace, run_key: str | None) -> list[Any]:
    pattern = "[!.]*.parquet" if run_key is None else f"{safe_name(run_key)}-[0-9][0-9][0-9][0-9].parquet"
    return sorted(folder(workspace, "asked").glob(pattern))


def _by_sample(tasks: Iterable[ReviewTask]) -> list[ReviewTask]:
    return sorted(tasks, key=lambda task: (task.sample_id, task.push_key))


def _row(task: ReviewTask, run_key: str, at: datetime) -> dict[str, Any]:
    return {
        "push_key": task.push_key,
        "sample_id": task.sample_id,
        "asked_as": task.asked_as,
        "current_label": task.current_label,
        "suggestion": None if task.asked_as in UNSHOWN else task.model_label or None,
        "confidence": task.confidence,
        "reason": task.reason,
        "rank": task.rank,
        "priority": task.priority,
        "model_version": task.model_version,
        "run_key": run_key,
        "at": at,
    }
