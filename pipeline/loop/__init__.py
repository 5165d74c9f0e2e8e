"""The stages of one round: survey, pull, train, score, triage, push, report.

Each stage is a plain function from small values and paths to small values and paths, so that a flow or the command line
only has to call them in order. What a stage writes has a name made from what went into it (`pipeline.workspace`) and is
written whole or not at all: a round that died is run again and takes up its own finished stages.
"""

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from pipeline.loop.survey import Found, Pulled, find_projects, find_review_project, pull_labels, review_title, survey

if TYPE_CHECKING:
    from pipeline.loop.model import TrainedModel, score_labels, train_model
    from pipeline.loop.outcome import Summary, last_report, last_round, last_run, report_run
    from pipeline.loop.pushing import Pushed, preview_queue, push_queue, queue_url
    from pipeline.loop.queueing import plan_questions, triage_scores

logger = logging.getLogger(__name__)

_LATER = {
    "model": ("TrainedModel", "score_labels", "train_model"),
    "outcome": ("Summary", "last_report", "last_round", "last_run", "report_run"),
    "pushing": ("Pushed", "preview_queue", "push_queue", "queue_url"),
    "queueing": ("plan_questions", "triage_scores"),
}
"""Stages that need torch or MLflow, which take seconds to import: a survey that finds nothing new does without."""


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            path = f"{__name__}.{module}"
            if module == "model" and path not in sys.modules:
                logger.info("loading PyTorch and MLflow")  # half a minute, where nothing is in the disk's cache
            return getattr(importlib.import_module(path), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Found",
    "Pulled",
    "Pushed",
    "Summary",
    "TrainedModel",
    "find_projects",
    "find_review_project",
    "last_report",
    "last_round",
    "last_run",
    "plan_questions",
    "preview_queue",
    "pull_labels",
    "push_queue",
    "queue_url",
    "report_run",
    "review_title",
    "score_labels",
    "survey",
    "train_model",
    "triage_scores",
]
