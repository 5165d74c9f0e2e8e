"""The embedded stack, with its real servers."""

import logging
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from pipeline.errors import StackError
from pipeline.orchestrator import connected
from pipeline.stack import StackConfig, down, health, status, supervisord, up
from pipeline.stack.state import load_memory

if TYPE_CHECKING:
    from tests.integration.conftest import LabelStudioServer

CACHE = Path(__file__).parents[2] / ".fasten" / "cache"
FLOW = """
import subprocess, sys, time
from prefect import flow

@flow
def toy():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("the toy is running", flush=True)
    time.sleep(600)
"""
ONLY_MLFLOW = frozenset({"label-studio", "prefect"})
"""The lightest stack that is a real one."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackConfig]:
    """One home for all tests, since a first start has databases to migrate; each brings it up or down itself."""
    folder = tmp_path_factory.mktemp("stack")
    config = StackConfig(home=folder / "home", cache=CACHE, project=folder)
    try:
        yield config
    finally:
        down(config)


def members(config: StackConfig) -> list[psutil.Process]:
    memory = load_memory(config)
    assert memory is not None
    return supervisord.members(memory.stack_id)


def supervisor_of(config: StackConfig) -> psutil.Process:
    return psutil.Process(int((config.folder / "supervisord.pid").read_text()))


def start_toy_flow(config: StackConfig, api_url: str) -> None:
    """A flow run of the worker, with a child of its own, that would run for ten minutes."""
    (config.project / "toy.py").write_text(FLOW)

    directory = {"prefect.deployments.steps.set_working_directory": {"directory": str(config.project)}}
    # Prefect's own client asks again where its server says 503, as it does for a moment while SQLite is locked.
    with connected(api_url) as client:
        flow_id = client.create_flow_from_name("toy")
        deployment_id = client.create_deployment(
            flow_id, "toy", entrypoint="toy.py:toy", path=".", work_pool_name="fasten", pull_steps=[directory]
        )
        client.create_flow_run_from_deployment(deployment_id)
    log = config.log("worker")
    complaint = health.wait_until(
        lambda: None if "the toy is running" in log.read_text() else "not running", timeout_s=90, alive=lambda: True
    )
    assert complaint is None, log.read_text()


def test_label_studio_fixture_accepts_its_token(label_studio: "LabelStudioServer") -> None:
    answer = httpx.get(
        f"{label_studio.url}/api/current-user/whoami", headers={"Authorization": f"Token {label_studio.token}"}
    )
    assert answer.json()["email"] == label_studio.username


@pytest.mark.usefixtures("label_studio_install")
def test_whole_stack_comes_up_once_on_loopback_only_and_goes_down_without_a_trace(config: StackConfig) -> None:
    down(config)
    told: list[str] = []
    state = up(config, before_worker=told.append)
    assert told == [f"{state.urls['prefect']}/api"]
    assert state.started == {"label-studio", "prefect", "mlflow", "worker"}
    first = {service.name: service.pid for service in status(config)}
    assert [(service.name, service.detail) for service in status(config) if not service.healthy] == []

    # Each server is the real thing and accepts what stack.env says.
    env = dict(line.split("=", 1) for line in (config.home / "stack.env").read_text().splitlines())
    token = {"Authorization": f"Token {env['FASTEN_LABEL_STUDIO_TOKEN']}"}
    me = httpx.get(f"{env['FASTEN_LABEL_STUDIO_URL']}/api/current-user/whoami", headers=token)
    assert me.json()["email"] == env["FASTEN_LABEL_STUDIO_USERNAME"]
    pool = httpx.get(f"{env['FASTEN_PREFECT_API_URL']}/work_pools/fasten")
    assert pool.json()["type"] == "process"
    assert httpx.get(f"{env['FASTEN_MLFLOW_TRACKING_URI']}/version").status_code == 200

    # A second call starts nothing, and nothing of the first is restarted.
    assert up(config, before_worker=told.append).started == frozenset()
    assert len(told) == 1
    assert {service.name: service.pid for service in status(config)} == first

    living = members(config)
    listening = [
        connection.laddr
        for process in living
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert {address.ip for address in listening} == {"127.0.0.1"}
    secret = [config.home / "stack.env", *config.folder.glob("*.json")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    # Signals that the shell of `up` ignored must reach the worker, or its flow runs cannot be stopped.
    ignored = Path(f"/proc/{first['worker']}/status").read_text().split("SigIgn:")[1].split()[0]
    assert not int(ignored, 16) & (1 << (signal.SIGINT - 1) | 1 << (signal.SIGTERM - 1))

    start_toy_flow(config, env["FASTEN_PREFECT_API_URL"])
    runs = [process for process in members(config) if process not in living]
    assert len(runs) == 2
    assert down(config) == len(living) + len(runs)
    assert not any(process.is_running() for process in (*living, *runs))
    # Prefect was told while it could be: the run does not count as running for ever.
    assert "Finished in state Crashed" in config.log("worker").read_text()
    assert {service.detail for service in status(config)} == {"not running"}
    assert down(config) == 0


def test_down_ends_what_a_killed_supervisord_left_behind(config: StackConfig) -> None:
    up(config, external=ONLY_MLFLOW)
    orphans = [process for process in members(config) if process.pid != supervisor_of(config).pid]
    supervisor_of(config).kill()
    psutil.wait_procs(orphans, timeout=0)
    assert len(orphans) >= 2
    assert all(process.is_running() for process in orphans)
    assert ["without its supervisord" in service.detail for service in status(config)] == [True]
    assert down(config) == len(orphans)
    assert not any(process.is_running() for process in orphans)


def test_up_replaces_what_a_killed_supervisord_left_behind(config: StackConfig) -> None:
    before = up(config, external=ONLY_MLFLOW)
    orphans = [process for process in members(config) if process.pid != supervisor_of(config).pid]
    supervisor_of(config).kill()
    after = up(config, external=ONLY_MLFLOW)
    assert not any(process.is_running() for process in orphans)
    assert after.started == {"mlflow"}
    assert after.urls == before.urls


def test_up_mends_a_server_whose_child_holds_its_port(config: StackConfig) -> None:
    before = up(config, external=ONLY_MLFLOW)
    server = psutil.Process(status(config)[0].pid)
    children = server.children()
    supervisor_of(config).suspend()  # it would start the server again before this test could look
    server.kill()
    supervisor_of(config).resume()
    after = up(config, external=ONLY_MLFLOW)
    assert children
    assert not any(child.is_running() for child in children)
    assert after.urls == before.urls
    assert [service.detail for service in status(config)] == ["well"]


def test_two_calls_at_once_start_one_stack(config: StackConfig) -> None:
    down(config)
    code = (
        "import sys; from pathlib import Path; from pipeline.stack import StackConfig, up; "
        f"state = up(StackConfig(home=Path(sys.argv[1])), external=frozenset({sorted(ONLY_MLFLOW)})); "
        "print(sorted(state.started), sorted(state.urls.items()))"
    )
    command = [sys.executable, "-c", code, str(config.home)]
    calls = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(call.communicate()[0] for call in calls)
    urls = [(service.name, service.url) for service in status(config)]
    assert said == [f"['mlflow'] {urls}\n", f"[] {urls}\n"]


def test_home_with_an_awkward_name_works(tmp_path: Path) -> None:
    config = StackConfig(home=tmp_path / "50% off; it's #1 and rather long" / ("x" * 100))
    try:
        state = up(config, external=ONLY_MLFLOW)
        created = httpx.post(f"{state.urls['mlflow']}/api/2.0/mlflow/experiments/create", json={"name": "one"})
        assert created.status_code == 200
        assert (config.home / "mlflow" / "mlflow.db").is_file()
        assert "Uvicorn running" in config.log("mlflow").read_text()
    finally:
        assert down(config) > 0


def test_service_that_cannot_run_is_one_clear_error_and_nothing_is_left(tmp_path: Path) -> None:
    config = StackConfig(home=tmp_path)
    (config.home / "mlflow").mkdir(parents=True)
    (config.home / "mlflow" / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StackError, match=r"^mlflow does not get well \(.*\): .+; see .*mlflow\.log$") as raised:
        up(config, external=ONLY_MLFLOW)
    assert "\n" not in str(raised.value)
    assert members(config) == []
    assert not (config.home / "stack.env").exists()


def test_port_taken_by_a_stranger_is_given_up(config: StackConfig, caplog: pytest.LogCaptureFixture) -> None:
    before = up(config, external=ONLY_MLFLOW)
    down(config)
    port = int(before.urls["mlflow"].rsplit(":", 1)[1])
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as stranger:
        try:
            assert (
                health.wait_until(
                    lambda: "free" if health.port_is_free(port) else None, timeout_s=20, alive=lambda: True
                )
                is None
            )
            with caplog.at_level(logging.WARNING):
                after = up(config, external=ONLY_MLFLOW)
            assert after.urls != before.urls
            assert f"port {port} is taken" in caplog.text
            down(config)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_down_without_a_stack_stops_nothing(tmp_path: Path) -> None:
    assert down(StackConfig(home=tmp_path / "none")) == 0
    assert not (tmp_path / "none").exists()
    assert {service.detail for service in status(StackConfig(home=tmp_path / "none"))} == {"never started"}


def test_unknown_external_service_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"no service is named mysql; there are label-studio, prefect, mlflow, worker"):
        up(StackConfig(home=tmp_path), external=frozenset({"mysql"}))
    assert list(tmp_path.iterdir()) == []
