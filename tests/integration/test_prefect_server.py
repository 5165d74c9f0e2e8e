"""The door to Prefect against a real server: deployments, runs, and what a killed worker leaves behind."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Pending, Running

from pipeline import orchestrator
from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable, StackError
from pipeline.stack.health import free_port

REPOSITORY = Path(__file__).parents[2]
SMALL = """
from prefect import flow, get_run_logger

@flow(name="small")
def small(word: str = "nothing") -> str:
    get_run_logger().info("heard %s", word)
"""
SMALL_YAML = """
deployments:
  - name: quick
    entrypoint: small.py:small
    work_pool: {name: fasten}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profiles of Prefect's own commands: none of the user's."""
    return tmp_path_factory.mktemp("prefect-home")


@pytest.fixture(scope="module")
def deployed(prefect_server: str, home: Path) -> str:
    """API of the session's server, which has this project's deployments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        orchestrator.deploy(prefect_server, REPOSITORY)
    return prefect_server


@pytest.fixture(scope="module")
def small(deployed: str, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a deployed flow that takes no time."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.py").write_text(SMALL)
    (folder / "prefect.yaml").write_text(SMALL_YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        orchestrator.deploy(deployed, folder)
    return folder


def read(api_url: str, run_id: str) -> FlowRun:
    with orchestrator.connected(api_url) as client:
        return client.read_flow_run(UUID(run_id))


def test_the_projects_deployment_is_registered_with_its_schedule_and_one_run_at_a_time(deployed: str) -> None:
    assert orchestrator.deployment_schedules(deployed) == ["0 2 * * *"]
    with orchestrator.connected(deployed) as client:
        deployment = client.read_deployment_by_name(orchestrator.DEPLOYMENT)
        assert client.read_work_pool(orchestrator.WORK_POOL).type == "process"
    assert deployment.entrypoint == "flows/retrain.py:fasten"
    assert deployment.work_pool_name == orchestrator.WORK_POOL
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 1
    assert deployment.enforce_parameter_schema


def test_an_unknown_deployment_is_one_line_with_the_way_out(deployed: str) -> None:
    with pytest.raises(ConfigError, match="no deployment fasten/other: run `fasten up`"):
        orchestrator.deployment_schedules(deployed, "fasten/other")
    with pytest.raises(ConfigError, match="no deployment fasten/other"):
        orchestrator.start_run(deployed, name="fasten/other")


def test_a_parameter_of_another_type_is_refused(deployed: str) -> None:
    with pytest.raises(ServiceError, match="answered 4"):
        orchestrator.start_run(deployed, parameters={"force": "perhaps"})


def test_a_pool_without_a_worker_or_that_is_not_there_has_none_online(deployed: str) -> None:
    with orchestrator.connected(deployed) as client:
        client.create_work_pool(WorkPoolCreate(name="idle", type="process"))
    assert orchestrator.workers_online(deployed, "idle") == 0
    assert orchestrator.workers_online(deployed, "no such pool") == 0


def test_a_started_run_is_followed_to_its_end(deployed: str, small: Path, home: Path) -> None:
    run_id = orchestrator.start_run(deployed, name="small/quick", parameters={"word": "hello"})
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "flow-run", "execute", run_id],
        cwd=small,
        env={**os.environ, "PREFECT_API_URL": deployed, "PREFECT_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    heard: list[str] = []
    try:
        outcome = orchestrator.follow_run(deployed, run_id, on_log=heard.append, poll_s=0.1)
    finally:
        worker.wait(timeout=120)
    assert outcome.completed, outcome
    assert outcome.flow_run_id == run_id
    assert outcome.state_name == "Completed"
    assert heard.count("heard hello") == 1


def test_runs_that_died_with_their_worker_are_crashed_and_those_that_wait_are_left(deployed: str, small: Path) -> None:
    assert small.is_dir()
    running, pending, waiting = (orchestrator.start_run(deployed, name="small/quick") for _ in range(3))
    with orchestrator.connected(deployed) as client:
        client.set_flow_run_state(UUID(pending), Pending(), force=True)
        client.set_flow_run_state(UUID(running), Running(), force=True)
    assert orchestrator.mark_dead_runs(deployed) == 2
    for dead in (running, pending):
        state = read(deployed, dead).state
        assert state is not None
        assert (state.type, state.message) == (StateType.CRASHED, "its worker was stopped")
    state = read(deployed, waiting).state
    assert state is not None
    assert state.type == StateType.SCHEDULED
    assert orchestrator.mark_dead_runs(deployed) == 0
    with orchestrator.connected(deployed) as client:
        client.delete_flow_run(UUID(waiting))


def test_a_project_that_does_not_deploy_is_one_line(
    deployed: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(home))
    (tmp_path / "prefect.yaml").write_text(SMALL_YAML)
    with pytest.raises(StackError, match=r"`prefect --no-prompt deploy --all` failed: .+") as caught:
        orchestrator.deploy(deployed, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_gone_is_one_line(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/api"
    for call in (
        lambda: orchestrator.deploy(nobody, tmp_path),
        lambda: orchestrator.run_in_process({}, api_url=nobody),
    ):
        with pytest.raises(ServiceUnavailable, match="does not answer: start it"):
            call()


def test_the_flow_is_found_by_its_entry_point() -> None:
    assert orchestrator.registered_flow().name == "fasten"
    with pytest.raises(ConfigError, match="no flow 'unknown' is installed"):
        orchestrator.registered_flow("unknown")
