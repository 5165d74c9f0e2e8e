"""Runs that somebody undid, and the questions that were taken back with them."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pipeline.trail.files import folder, one_writer, read_rows, safe_name, write_rows
from pipeline.trail.schema import REVERTED, WITHDRAWN
from pipeline.workspace import Workspace


def mark_reverted(workspace: Workspace, run_key: str, *, by: str, at: datetime) -> bool:
    """Note that a run counts no longer; False where that was noted before, which then stands."""
    path = folder(workspace, "reverted") / f"{safe_name(run_key)}.parquet"
    with one_writer(workspace):
        if path.exists():
            return False
        write_rows(path, REVERTED, [{"run_key": run_key, "by": by, "at": at}])
    return True


def reverted(workspace: Workspace) -> set[str]:
    """The keys of the runs that were undone."""
    return {path.stem for path in folder(workspace, "reverted").glob("[!.]*.parquet")}


def reverted_rows(workspace: Workspace) -> Iterator[dict[str, Any]]:
    """Which runs were undone, by whom and when."""
    for path in sorted(folder(workspace, "reverted").glob("[!.]*.parquet")):
        yield from read_rows(path, REVERTED)


def mark_withdrawn(
    workspace: Workspace, run_key: str, questions: Mapping[str, str], *, at: datetime, why: str | None = None
) -> int:
    """Note that the questions (push key → sample id) were taken back; → how many were not noted yet.

    run_key: the run that was reverted, or the one that withdrew them.
    """
    with one_writer(workspace):
        noted = {row["push_key"] for row in withdrawn_rows(workspace) if row["run_key"] == run_key}
        new = {key: sample_id for key, sample_id in questions.items() if key not in noted}
        if not new:
            return 0
        place = folder(workspace, "withdrawn")
        number = len(list(place.glob(f"{safe_name(run_key)}-[0-9][0-9][0-9][0-9].parquet")))
        rows = [
            {"push_key": key, "sample_id": sample_id, "run_key": run_key, "at": at, "why": why}
            for key, sample_id in sorted(new.items(), key=lambda question: (question[1], question[0]))
        ]
        return write_rows(place / f"{run_key}-{number:04d}.parquet", WITHDRAWN, rows)


def withdrawn_rows(workspace: Workspace, sample_id: str | None = None) -> Iterator[dict[str, Any]]:
    """The questions that were taken back, about all samples or one."""
    for path in sorted(folder(workspace, "withdrawn").glob("[!.]*.parquet")):
        yield from read_rows(path, WITHDRAWN, sample_id=sample_id)
