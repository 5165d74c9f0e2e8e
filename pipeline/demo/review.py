"""Simulated reviewers take the queue in its order, through the API, as a person would."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.demo.annotators import REVIEWER_ACCURACY, simulated_reviewer
from pipeline.records import NOT_SURE, Project, Task

logger = logging.getLogger(__name__)

_LOG_EVERY = 50


class ReviewDoor(Protocol):
    """What one reviewer needs of their own door to Label Studio (`pipeline.label_studio.LabelStudio`)."""

    def next_task(self, project: Project, /) -> Task | None: ...
    def submit(
        self,
        project: Project,
        task: Task,
        /,
        *,
        label: str | None = None,
        verdict: str | None = None,
        lead_time_s: float | None = None,
    ) -> object: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewed:
    """What came of one sitting."""

    asked: int
    """Tasks that the queue served and that were answered."""
    really_wrong: int
    """Of those, how many were labelled wrong: what the reviewers' attention was worth."""
    suggestion_right: int
    """Of those, how many pre-selected the truth."""
    answered_right: int
    unknown: int
    """Answered "not sure", since nobody knows the truth; counted in `asked` only."""
    seconds: float
    """Lead time of all answers together: the attention it would have cost."""


def review_queue(
    reviewers: Sequence[ReviewDoor],
    project: Project,
    truths: Mapping[str, str],
    given: Mapping[str, str],
    *,
    count: int,
    accuracy: float = REVIEWER_ACCURACY,
    rng: np.random.Generator,
) -> Reviewed:
    """The `reviewers` in turn answer up to `count` tasks, each the one that the queue serves them next.

    `truths` (`sample_id` → truth) only decide what a person would see in the image; `given` are the annotators' labels,
    which some questions do not show. Ends early when the queue has nothing left for a reviewer whose turn it is.
    """
    asked = really_wrong = suggestion_right = answered_right = unknown = 0
    seconds = 0.0
    for reviewer in itertools.islice(itertools.cycle(reviewers), count):
        task = reviewer.next_task(project)
        if task is None:
            logger.info("the queue is empty")
            break
        truth = truths.get(task.sample_id)
        lead_time_s = round(float(rng.gamma(4.0, 0.8)), 2)
        if truth is None:
            reviewer.submit(project, task, verdict=NOT_SURE, lead_time_s=lead_time_s)
            unknown += 1
        else:
            answer = simulated_reviewer(truth, project.control.classes, accuracy, rng=rng)
            reviewer.submit(project, task, label=answer, lead_time_s=lead_time_s)
            answered_right += answer == truth
            really_wrong += given[task.sample_id] != truth
            suggestion_right += task.data.get("model_label") == truth
        asked += 1
        seconds += lead_time_s
        if asked % _LOG_EVERY == 0:
            logger.info("reviewed %s tasks, %s of them labelled wrong", f"{asked:,}", f"{really_wrong:,}")
    return Reviewed(
        asked=asked,
        really_wrong=really_wrong,
        suggestion_right=suggestion_right,
        answered_right=answered_right,
        unknown=unknown,
        seconds=seconds,
    )
