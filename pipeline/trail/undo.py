"""`fasten revert`: undo what one run changed, and nothing that a person said.

The record comes first: from then on the run's decisions count no longer, whatever happens to this process. Taking back
its unanswered questions and its model's place in the registry is repeated until it is done, by calling it again.

Questions are taken back as a push does it: they are served no longer, who has one open may still answer it, and a push
removes it a day later.
"""

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline import queue
from pipeline.errors import DataError
from pipeline.records import Project
from pipeline.trail.files import read_rows
from pipeline.trail.machine import MachineRun, machine_runs
from pipeline.trail.reverted import mark_reverted, mark_withdrawn, reverted
from pipeline.trail.schema import MACHINE
from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

REVERTED_WHY = "its run was reverted"
"""Why a question is withdrawn, in the words of the trail."""
_SHORTEST = 6


class AskedQuestion(Protocol):
    """What is needed of `pipeline.label_studio.Asked`."""

    @property
    def task_id(self) -> int: ...
    @property
    def push_key(self) -> str: ...
    @property
    def sample_id(self) -> str: ...
    @property
    def asked_by_run(self) -> str: ...
    @property
    def untouched(self) -> bool: ...
    @property
    def retired(self) -> bool: ...
    @property
    def withdrawn_by(self) -> str: ...


class ReviewDoor(queue.RetiringDoor, Protocol):
    """What is needed of `pipeline.label_studio.LabelStudio`."""

    def asked(self, project: Project, /) -> Iterator[AskedQuestion]: ...


class ModelRegistry(Protocol):
    """What is needed of `pipeline.tracking.Tracking`."""

    def step_back(self, version: str, /, *, reverted: Collection[str], dry_run: bool) -> dict[str, str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Undone:
    """What reverting a run did, or would do."""

    run: MachineRun
    before: bool
    """Whether it had been reverted already: then only what was left undone is counted here."""
    relabels: int
    """Labels that the run changed without asking; they count no longer."""
    withdrawn: int
    """Questions that nobody had answered, now served no longer."""
    answered: int
    """Questions of the run that people have answered, skipped or begun: they stay."""
    aliases: dict[str, str]
    """Alias of the registered model → the version it points at now; empty where none pointed at the run's."""


def find_run(workspace: Workspace, reference: str) -> MachineRun:
    """The run with this key or start of a key, MLflow run id, or model version (`fasten/3`); the latest of several.

    Raises `DataError` naming the runs there are.
    """
    runs = machine_runs(workspace)
    keys = {run.run_key for run in runs if run.run_key.startswith(reference)} if len(reference) >= _SHORTEST else set()
    if len(keys) > 1:
        raise DataError(
            f"{reference!r} is the start of several runs ({', '.join(sorted(keys)[:3])}): give the whole key"
        )
    for run in runs:
        if run.run_key in keys or (reference and reference in (run.run_key, run.mlflow_run_id, run.model_version)):
            return run
    known = ", ".join(dict.fromkeys(run.run_key for run in runs[:5])) or "none"
    raise DataError(
        f"no run {reference!r} is kept (the latest: {known}); give a run key, MLflow run id or model version"
    )


def undo_run(
    workspace: Workspace,
    run: MachineRun,
    *,
    door: ReviewDoor | None,
    review: Project | None,
    registry: ModelRegistry | None,
    by: str,
    at: datetime,
    dry_run: bool = False,
) -> Undone:
    """Revert `run`. `door` and `review`: where its questions are; `registry`: where its model is; None leaves them.

    With `dry_run` nothing is written, changed or moved, and the figures are what they would be.
    """
    before = run.run_key in reverted(workspace)
    relabels = {
        row["sample_id"]
        for one in machine_runs(workspace)
        if one.run_key == run.run_key and one.mode == "auto" and not before
        for row in read_rows(one.path, MACHINE)
        if row["applied"]
    }
    if not dry_run:
        mark_reverted(workspace, run.run_key, by=by, at=at)
    withdrawn = answered = 0
    if door is not None and review is not None:
        withdrawn, answered = _withdraw(workspace, run, door, review, at=at, dry_run=dry_run)
    aliases: dict[str, str] = {}
    if registry is not None and run.model_version:
        others = {one.model_version for one in machine_runs(workspace) if one.run_key in reverted(workspace)}
        undone = {_number(version) for version in others if version}
        aliases = registry.step_back(_number(run.model_version), reverted=undone, dry_run=dry_run)
    return Undone(
        run=run,
        before=before,
        relabels=len(relabels),
        withdrawn=withdrawn,
        answered=answered,
        aliases=aliases,
    )


def _withdraw(
    workspace: Workspace, run: MachineRun, door: ReviewDoor, review: Project, *, at: datetime, dry_run: bool
) -> tuple[int, int]:
    """Take back the run's questions that nobody has answered; → (how many, how many were answered).

    What somebody touches meanwhile stays. What is retired already is removed by a push, whoever retired it.
    """
    with workspace.one_writer():
        mine = [question for question in door.asked(review) if question.asked_by_run == run.run_key]
        retired = [question for question in mine if question.retired and question.untouched]
        unanswered = [question for question in mine if question.untouched and not question.retired]
        answered = len(mine) - len(retired) - len(unanswered)
        if dry_run:
            return len(unanswered), answered
        ids = [question.task_id for question in unanswered]
        done = queue.retire(door, review, ids, why=REVERTED_WHY, run_key=run.run_key)
        # Those of an attempt that died before it noted them, too.
        ours = [question for question in retired if question.withdrawn_by == run.run_key]
        ours += [question for question in unanswered if question.task_id in done]
        noted = {question.push_key: question.sample_id for question in ours}
        mark_withdrawn(workspace, run.run_key, noted, at=at, why=REVERTED_WHY)
    logger.info("%d questions of run %s taken back", len(done), run.run_key)
    return len(done), answered + len(unanswered) - len(done)


def _number(model_version: str) -> str:
    """`3` of `fasten/3`."""
    return model_version.rpartition("/")[2]
