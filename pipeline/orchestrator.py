"""The door to Prefect: the only module outside `flows/` that imports it.

Deployments are registered by Prefect's own command from `prefect.yaml`; runs are started and followed through its API
(https://docs.prefect.io/v3/api-ref). The in-process flow is found by its entry point, so that nothing here imports
`flows`.
"""

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from threading import Event
from typing import Any, cast
from uuid import UUID

# Before Prefect is imported, which reads them once, and for the commands that are started here.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

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
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Scheduled

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable, StackError

logger = logging.getLogger(__name__)
# On a busy machine Prefect says at exit how many of its events it is still sending, after the line that tells how our
# command ended, which is the last one. What it fails to send is an error, and stays.
logging.getLogger("EventsWorker").setLevel(logging.ERROR)

DEPLOYMENT = "fasten/retrain"
WORK_POOL = "fasten"
_PAGE = 200
"""Log lines asked for at once; the server gives no more."""
_LAST_WORDS = "Finished in state"
"""How the last log line of a flow run begins."""


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
        # Prefect's own 404, of a thing that is not there, is an ObjectNotFound: this one is the address's.
        way_out = "is FASTEN_PREFECT_API_URL right? It ends in /api" if status == 404 else "see its log"
        raise kind(f"Prefect at {api_url} answered {status}: {way_out}") from None
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise ServiceUnavailable(
            f"Prefect at {api_url} does not answer: start it (`fasten up` does, unless it is your own), or set "
            "FASTEN_PREFECT_API_URL"
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
        try:
            response = client.request(
                "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": pool}, json={}
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            return 0  # no such pool
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
    api_url: str,
    flow_run_id: str,
    *,
    on_log: Callable[[str], None] | None = None,
    poll_s: float = 1.0,
    patience_s: float = 30.0,
    settle_s: float = 5.0,
) -> RunOutcome:
    """Wait for a flow run to end, handing on its log lines as they come.

    Where nobody has taken the run up after `patience_s` it says so, once, and waits on. A run sends its last lines
    after its last state: they are waited for, `settle_s` at the most.
    """
    pause = Event()
    asked = time.monotonic()
    ended: float | None = None
    seen = 0
    last = ""
    with connected(api_url) as client:
        while True:
            run: FlowRun = client.read_flow_run(UUID(flow_run_id))
            if ended is None and run.state is not None and run.state.is_final():
                ended = time.monotonic()
            if on_log is not None:
                for last in _logs_after(client, flow_run_id, seen):
                    on_log(last)
                    seen += 1
            whole = on_log is None or last.startswith(_LAST_WORDS)
            if ended is not None and (whole or time.monotonic() - ended > settle_s):
                return _outcome(api_url, run)
            if (run.state is None or run.state.is_scheduled()) and time.monotonic() - asked > patience_s:
                logger.warning(
                    "flow run %s still waits for a worker of the work pool “%s”: see `fasten doctor`",
                    run.name,
                    run.work_pool_name or WORK_POOL,
                )
                patience_s = math.inf
            pause.wait(poll_s)


def _logs_after(client: SyncPrefectClient, flow_run_id: str, offset: int) -> Iterator[str]:
    """Every log line from the `offset`-th, a page at a time."""
    log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(flow_run_id)]))
    while True:
        response = client.request(
            "POST",
            "/logs/filter",
            json={
                "logs": log_filter.model_dump(mode="json", exclude_unset=True),
                "sort": LogSort.TIMESTAMP_ASC.value,
                "offset": offset,
                "limit": _PAGE,
            },
        )
        response.raise_for_status()
        page = response.json()
        yield from (str(line["message"]) for line in page)
        offset += len(page)
        if len(page) < _PAGE:
            return


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
    """Set every run of our work pool that is still `Running` or `Pending` to `Crashed`; returns how many.

    For a server whose only worker has just been started: whatever it believes to be running died with the last one
    (Prefect keeps such runs as they are, and they hold the deployment's concurrency slot).
    """
    alive = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    ours = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    with connected(api_url) as client:
        runs = client.read_flow_runs(flow_run_filter=alive, work_pool_filter=ours)
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
