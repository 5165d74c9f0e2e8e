"""The file of a plan, between the stage that composes it and the one that carries it out.

A batch is composed for what is asked already. Composed anew around its own first half it would be another one: shares
are rounded again, and what was the better question is now a near duplicate. So a push notes which plan it carries out,
and while that note is there, a push that died is taken up with the questions that it had planned.
"""

import hashlib
import json
import logging
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline import triage
from pipeline.errors import DataError
from pipeline.settings import Settings
from pipeline.workspace import OF_THE_QUEUE, write_whole

logger = logging.getLogger(__name__)

PLAN = TypeAdapter(triage.Plan)


def plan_path(scores_path: Path, *, recheck: int = 0) -> Path:
    """Where the plan made from these scores is kept; rechecks have one of their own."""
    return scores_path.with_name("recheck.json" if recheck else "queue.json")


def keep_plan(plan: triage.Plan, path: Path) -> None:
    """Write it whole, or not at all."""
    write_whole(path, PLAN.dump_json(plan))


def read_plan(path: Path) -> triage.Plan:
    """The plan kept there; raises `DataError` where there is none that can be read."""
    try:
        return PLAN.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise DataError(f"{path} is missing or damaged: run `fasten retrain --force`") from None


def begin(path: Path, settings: Settings) -> None:
    """Note that a push carries out the plan kept there."""
    write_whole(_note(path), _digest(path.read_bytes(), settings).encode())


def end(path: Path) -> None:
    """Note that it was carried out: the next one is composed for what is asked then."""
    _note(path).unlink(missing_ok=True)


def begun_plan(path: Path, settings: Settings) -> triage.Plan | None:
    """The plan that a push began and did not end; None where there is none, or it was made with other settings."""
    try:
        if _note(path).read_bytes() != _digest(path.read_bytes(), settings).encode():
            return None
        plan = read_plan(path)
    except (OSError, DataError):
        return None
    logger.info("taking up a push that has not come to its end: %d questions, as they were planned", len(plan.tasks))
    return plan


def _note(path: Path) -> Path:
    return path.with_suffix(".begun")


def _digest(plan: bytes, settings: Settings) -> str:
    """Of the plan and of what it was composed by."""
    composed_by = {name: getattr(settings, name) for name in (*OF_THE_QUEUE, "review_project")}
    return hashlib.sha256(plan + json.dumps(composed_by, sort_keys=True).encode()).hexdigest()
