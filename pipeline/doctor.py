"""Checks each outside system and says, for each that is not well, what to do."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigError, FastenError
from pipeline.records import Origin, Project
from pipeline.settings import Service, Settings, user_chosen_services
from pipeline.stack.services import WORKER_COMMAND

if TYPE_CHECKING:
    from pipeline.label_studio import LabelStudio

Level = Literal["ok", "warning", "problem"]

_LOW_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was checked."""

    what: str
    level: Level
    detail: str
    """What was found; for a problem also what to do about it."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything that a round needs, in the order it needs it."""
    yield from _label_studio(settings)
    yield from _prefect(settings)
    yield server(settings, "mlflow")
    if settings.snapshot_store:
        yield _checked("snapshot store", lambda: _snapshot_store(settings))
    yield _checked("device", lambda: _device(settings))
    yield _disk(settings)


def server(settings: Settings, name: Service) -> Finding:
    """Whether one of the three servers answers, with the credentials that a round uses."""
    match name:
        case "label-studio":
            return _checked("Label Studio", lambda: _label_studio_alone(settings))
        case "prefect":
            return _checked("Prefect", lambda: _prefect_alone(settings.prefect_api_url))
        case "mlflow":
            return _checked("MLflow", lambda: _mlflow(settings))


def _checked(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, level="ok", detail=check())
    except FastenError as error:
        return Finding(what=what, level="problem", detail=str(error))


def _label_studio_alone(settings: Settings) -> str:
    from pipeline.label_studio import LabelStudio

    with LabelStudio(settings.label_studio) as door:
        return _signed_in(settings, door)


def _signed_in(settings: Settings, door: "LabelStudio") -> str:
    server = door.check()
    return f"{server.version} at {settings.label_studio_url}, signed in as {server.user}"


def _label_studio(settings: Settings) -> Iterator[Finding]:
    from pipeline import loop
    from pipeline.label_studio import LabelStudio

    try:
        door = LabelStudio(settings.label_studio)
    except FastenError as error:
        yield Finding(what="Label Studio", level="problem", detail=str(error))
        return
    with door:
        signed_in = _checked("Label Studio", partial(_signed_in, settings, door))
        yield signed_in
        if signed_in.level == "problem":
            return
        try:
            labels, audit, review = loop.find_projects(settings, door)
        except FastenError as error:
            yield Finding(what="projects", level="problem", detail=str(error))
            return
        yield Finding(
            what="labels project",
            level="ok",
            detail=f"“{labels.title}” ({labels.project_id}): control “{labels.control.name}” on "
            f"“${labels.control.image_field}”, {len(labels.control.classes)} classes",
        )
        if settings.leave_out_annotators:
            yield _checked("annotators", partial(_left_out, settings, door))
        if audit is None:
            yield Finding(
                what="audit project",
                level="warning",
                detail="none is set (FASTEN_AUDIT_PROJECT): only ground-truth annotations of the labels project count",
            )
        roles: tuple[tuple[Origin, Project | None], ...] = (("audit", audit), ("review", review))
        for role, project in roles:
            if project is not None:
                yield _checked(f"{role} project", partial(_same_classes, labels, project, role))
        if review is None:
            yield Finding(
                what="review project",
                level="ok",
                detail=f"“{loop.review_title(settings, labels)}” does not exist yet: the first round makes it",
            )


def _left_out(settings: Settings, door: "LabelStudio") -> str:
    return f"left out: {', '.join(sorted(door.find_annotators(settings.leave_out_annotators)))}"


def _same_classes(labels: Project, project: Project, role: Origin) -> str:
    from pipeline.snapshot.pull import check_same_classes

    check_same_classes(labels, project, role=role)
    return f"“{project.title}” ({project.project_id}), same classes"


def _prefect_alone(api_url: str | None) -> str:
    from pipeline import orchestrator

    if api_url is None:
        raise ConfigError("none is set: run `fasten up`, or set FASTEN_PREFECT_API_URL")
    return f"{orchestrator.server_version(api_url)} at {api_url}"


def _prefect(settings: Settings) -> Iterator[Finding]:
    reachable = server(settings, "prefect")
    yield reachable
    api_url = settings.prefect_api_url
    if reachable.level == "problem" or api_url is None:
        return
    yield _checked("deployment", lambda: _deployment(api_url))
    yield _checked("worker", lambda: _worker(api_url))


def _deployment(api_url: str) -> str:
    from pipeline import orchestrator

    crons = orchestrator.deployment_schedules(api_url)
    return f"{orchestrator.DEPLOYMENT}, cron {', '.join(crons)}" if crons else f"{orchestrator.DEPLOYMENT}, no schedule"


def _worker(api_url: str) -> str:
    from pipeline import orchestrator

    online = orchestrator.workers_online(api_url)
    if not online:
        # Beside a Prefect of the user's own `fasten up` starts none.
        way_out = WORKER_COMMAND if "prefect" in user_chosen_services() else "run `fasten up`"
        raise ConfigError(f"no worker serves the work pool “{orchestrator.WORK_POOL}”: {way_out}")
    return f"{online} online for work pool “{orchestrator.WORK_POOL}”"


def _mlflow(settings: Settings) -> str:
    from pipeline.tracking import Tracking

    config = settings.tracking
    return f"{Tracking(config).check().version} at {config.shown_uri}, experiment “{config.experiment}”"


def _snapshot_store(settings: Settings) -> str:
    from pipeline.snapshot_store.store import examine

    config = settings.shared_store
    return "none is set" if config is None else examine(config)


def _device(settings: Settings) -> str:
    from fasten_model.device import resolve_device

    device = resolve_device(settings.device)
    return f"{device.type}; preset “{settings.preset}”"


def _disk(settings: Settings) -> Finding:
    folder = settings.data_folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.0f} GiB free for {settings.data_folder}"
    if free < _LOW_DISK_BYTES:
        return Finding(what="disk", level="problem", detail=f"{detail}: free some, or set FASTEN_DATA_DIR elsewhere")
    return Finding(what="disk", level="ok", detail=detail)
