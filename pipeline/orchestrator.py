"""The door to Prefect: the only module outside `flows/` that imports it.

Deployments are registered by Prefect's own command from `prefect.yaml`; runs are started and followed through its API
(https://docs.prefect.io/v3/api-ref). The in-process flow is found by its entry point, so that nothing here imports
`flows`.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from threading import Event
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Scheduled

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable, StackError

logger = logging.getLogger(__name__)

DEPLOYMENT = "fasten/retrain"
WORK_POOL = "fasten"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How one flow run of a deployment ended."""

    flow_run_id: str
    name: str
    state_type: str
    """`COMPLETED`, `FAILED`, `CRASHED`, `CANCELLED`."""
    state_name: str
    """`Completed`, `Skipped`, …"""
    message: str
    url: str
    """Its page in Prefect's UI."""

    @property
    def completed(self) -> bool:
        """Whether it did what was asked, which includes finding nothing to do."""
        return self.state_type == StateType.COMPLETED.value


@contextmanager
def connected(api_url: str) -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server at `api_url`; Prefect's errors leave it as ours."""
    try:
        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            yield client
    except ObjectNotFound:
        raise
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        kind = ServiceUnavailable if status >= 500 else ServiceError
        raise kind(f"Prefect at {api_url} answered {status}: see its log") from None
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise ServiceUnavailable(
            f"Prefect at {api_url} does not answer: start it (`fasten up`), or set FASTEN_PREFECT_API_URL"
        ) from None


def server_version(api_url: str) -> str:
    """The server's version; raises `ServiceUnavailable` where nothing answers."""
    with connected(api_url) as client:
        response = client.request("GET", "/admin/version")
        response.raise_for_status()
        return str(response.json())


def deployment_schedules(api_url: str, name: str = DEPLOYMENT) -> list[str]:
    """The deployment's active cron schedules; raises `ConfigError` where it is not deployed."""
    with connected(api_url) as client:
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise ConfigError(
                f"Prefect at {api_url} has no deployment {name}: run `fasten up`, or `prefect --no-prompt deploy --all`"
            ) from None
    return [str(getattr(s.schedule, "cron", s.schedule)) for s in deployment.schedules if s.active]


def workers_online(api_url: str, pool: str = WORK_POOL) -> int:
    """How many workers of the pool have been heard of lately."""
    with connected(api_url) as client:
        response = client.request(
            "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": pool}, json={}
        )
        if response.status_code == httpx.codes.NOT_FOUND:
            return 0
        response.raise_for_status()
        return sum(1 for worker in response.json() if worker.get("status") == "ONLINE")


def deploy(api_url: str, root: Path) -> None:
    """Register every deployment of `root/prefect.yaml`, with Prefect's own command."""
    with connected(api_url) as client:
        try:
            client.read_work_pool(WORK_POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
            logger.info("made the process work pool “%s”", WORK_POOL)
    _prefect(api_url, root, "--no-prompt", "deploy", "--all")


def _prefect(api_url: str, root: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PREFECT_API_URL": api_url}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise StackError(f"`prefect {' '.join(arguments)}` failed: {lines[-1].strip() if lines else done.returncode}")


def start_run(api_url: str, *, name: str = DEPLOYMENT, parameters: dict[str, Any] | None = None) -> str:
    """Ask for one run of the deployment, as `prefect deployment run` does; returns the flow run's id."""
    with connected(api_url) as client:
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise ConfigError(f"Prefect at {api_url} has no deployment {name}: run `fasten up`") from None
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters or {}, state=Scheduled())
    return str(run.id)


def follow_run(
    api_url: str, flow_run_id: str, *, on_log: Callable[[str], None] | None = None, poll_s: float = 1.0
) -> RunOutcome:
    """Wait for a flow run to end, handing on its log lines as they come."""
    pause = Event()
    seen = 0
    with connected(api_url) as client:
        while True:
            run: FlowRun = client.read_flow_run(UUID(flow_run_id))
            ended = run.state is not None and run.state.is_final()
            if on_log is not None:
                for message in _logs_after(client, flow_run_id, seen):
                    on_log(message)
                    seen += 1
            if ended:
                return _outcome(api_url, run)
            pause.wait(poll_s)


def _logs_after(client: SyncPrefectClient, flow_run_id: str, offset: int) -> Iterator[str]:
    log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(flow_run_id)]))
    response = client.request(
        "POST",
        "/logs/filter",
        json={
            "logs": log_filter.model_dump(mode="json", exclude_unset=True),
            "sort": LogSort.TIMESTAMP_ASC.value,
            "offset": offset,
            "limit": 200,
        },
    )
    response.raise_for_status()
    for line in response.json():
        yield str(line["message"])


def _outcome(api_url: str, run: FlowRun) -> RunOutcome:
    state = run.state
    assert state is not None
    return RunOutcome(
        flow_run_id=str(run.id),
        name=run.name,
        state_type=state.type.value,
        state_name=state.name or state.type.value.title(),
        message=state.message or "",
        url=flow_run_url(api_url, str(run.id)),
    )


def flow_run_url(api_url: str, flow_run_id: str) -> str:
    """The run's page in Prefect's UI."""
    return f"{api_url.removesuffix('/api')}/runs/flow-run/{flow_run_id}"


def mark_dead_runs(api_url: str) -> int:
    """Set every run that is still `Running` or `Pending` to `Crashed`; returns how many.

    For a server whose only worker has just been started: whatever it believes to be running died with the last one
    (Prefect keeps such runs as they are, and they hold the deployment's concurrency slot).
    """
    alive = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    with connected(api_url) as client:
        runs = client.read_flow_runs(flow_run_filter=alive)
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message="its worker was stopped"), force=True)
    return len(runs)


def run_in_process(parameters: dict[str, Any], *, api_url: str | None) -> State[Any]:
    """Run the flow here and now, without a deployment; its final state.

    Raises `ServiceUnavailable` where an `api_url` is given and nothing answers there.
    """
    if api_url:
        server_version(api_url)
    flow = registered_flow()
    overrides = {PREFECT_API_URL: api_url} if api_url else {}
    with temporary_settings(overrides):
        return cast(State[Any], flow(**parameters, return_state=True))


def registered_flow(name: str = "retrain") -> Flow[..., Any]:
    """The flow registered under the entry point group `fasten.flows`."""
    found = entry_points(group="fasten.flows", name=name)
    if not found:
        raise ConfigError(f"no flow {name!r} is installed: install this project with `pip install -e .`")
    flow = next(iter(found)).load()
    assert isinstance(flow, Flow)
    return flow
