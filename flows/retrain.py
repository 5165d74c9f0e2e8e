"""The flow `fasten`: pull, train, score, triage, push.

Each step is a task that calls one stage of `pipeline.loop` and passes on paths and small values, never tables. A stage
finds what an earlier run of the same work has finished, so that a run that died anywhere is simply run again.
"""

import errno
import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

from prefect import Task, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff

from pipeline import loop
from pipeline.errors import FastenError, ServiceUnavailable
from pipeline.orchestrator import flow_run_url
from pipeline.parent_watch import watch_parent
from pipeline.records import Mode
from pipeline.settings import Settings, load_settings

logger = logging.getLogger("pipeline.flow")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

P = ParamSpec("P")
R = TypeVar("R")


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what an outside system may answer next time; a wrong setting stays wrong."""
    return isinstance(state.result(raise_on_failure=False), ServiceUnavailable)


def step(name: str, *, retries: int = 3) -> Callable[[Callable[P, R]], Task[P, R | State[Any]]]:
    """A task that fails with one line, not with a traceback, on what a user can mend."""

    def decorate(stage: Callable[P, R]) -> Task[P, R | State[Any]]:
        @wraps(stage)
        def run(*args: P.args, **kwargs: P.kwargs) -> R | State[Any]:
            try:
                return stage(*args, **kwargs)
            except FastenError as error:  # returned, not raised: Prefect shows a traceback of what is raised
                return Failed(message=str(error), data=error)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                where = error.filename or "the data folder"
                return Failed(message=f"{where}: {error.strerror}; make room, and run it again")

        made: Task[P, R | State[Any]] = task(
            name=name,
            retries=retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=5),
            retry_jitter_factor=0.5,
            retry_condition_fn=_may_pass,
            persist_result=False,
        )(run)
        return made

    return decorate


def later(name: str) -> Callable[..., Any]:
    """A stage that is imported when it runs: a round with nothing new needs neither torch nor MLflow."""

    def stage(*args: Any, **kwargs: Any) -> Any:
        return getattr(loop, name)(*args, **kwargs)

    stage.__name__ = stage.__qualname__ = name
    return stage


survey = step("survey")(loop.survey)
pull = step("pull")(loop.pull_labels)
train = step("train")(later("train_model"))
score = step("score")(later("score_labels"))
triage = step("triage")(later("triage_scores"))
push = step("push")(later("push_queue"))
report = step("report")(later("report_run"))


def _value(state: State[Any]) -> Any:
    """What the step returned; raises `FastenError` with its one line where it failed."""
    if state.is_completed():
        return state.result()
    cause = state.result(raise_on_failure=False)
    raise FastenError(str(cause) if isinstance(cause, FastenError) else state.message or f"step ended {state.name}")


@flow(name="fasten", description="Pull labels, train FasTEN, score, triage, and queue what people should look at.")
def fasten(
    labels_project: int | str | None = None,
    audit_project: int | str | None = None,
    review_project: int | str | None = None,
    force: bool = False,
    mode: Mode | None = None,
    reviews: int | None = None,
    minutes: float | None = None,
    rho: float | Literal["auto"] | None = None,
) -> State[Any]:
    """One round of the loop.

    What is given overrides the settings: the projects (ids or titles), `mode`, the most `reviews` or `minutes` of
    reviewers' work that may wait, `rho`. Ends `Skipped` where nothing has changed since the last round that was
    completed with the same configuration, unless `force`.
    """
    for name in ("pipeline", "fasten_model"):  # Prefect shows no more of them than their level lets through
        logging.getLogger(name).setLevel(logging.INFO)
    if os.environ.get("FASTEN_WATCH_PARENT") == "1":
        watch_parent()
    try:
        settings = load_settings(
            labels_project=labels_project,
            audit_project=audit_project,
            review_project=review_project,
            mode=mode,
            queue_size=reviews,
            review_minutes=minutes,
            rho=rho,
        )
        return _round(settings, force=force)
    except FastenError as error:
        logger.error("%s", error)
        return Failed(message=str(error))


def _round(settings: Settings, *, force: bool) -> State[Any]:
    found = _value(survey(settings, return_state=True))
    if found.nothing_new and not force:
        return Completed(name="Skipped", message=found.nothing_new)
    pulled = _value(pull(settings, found, return_state=True))
    if pulled.nothing_new and not force:
        return Completed(name="Skipped", message=pulled.nothing_new)
    trained = _value(train(settings, pulled, prefect_run_id=flow_run.id, return_state=True))
    scores = _value(score(settings, pulled, trained, return_state=True))
    queue = _value(triage(settings, found, pulled, scores, return_state=True))
    pushed = _value(push(settings, found, queue, return_state=True))
    page = flow_run_url(settings.prefect_api_url, str(flow_run.id)) if settings.prefect_api_url else ""
    summary = _value(report(settings, pulled, trained, scores, pushed, prefect_url=page, return_state=True))
    create_markdown_artifact(
        key="fasten-report", markdown=summary.markdown, description="What this round found and did"
    )
    return Completed(message=summary.headline)
