"""The process runner: what it is told, and how processes are found and ended by their mark."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.stack import StackConfig, health, launch, services, status, supervisord, up
from pipeline.stack.state import Memory, exclusive, save_memory

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], env={{}}); {SLEEPER}"


@contextmanager
def process(mark: str | None, code: str = SLEEPER) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ["PATH"]} | ({} if mark is None else {supervisord.STACK_ID: mark})
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            for _ in range(2 if code == PARENT else 1):
                assert started.stdout.readline() == "up\n"
            yield started
        finally:
            started.kill()


def test_sweep_ends_what_carries_the_mark_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisord, "_KILL_TIMEOUT_S", 1)
    with (
        process("ours") as ours,
        process("ours", STUBBORN) as stubborn,
        process("theirs") as theirs,
        process(None) as no,
    ):
        assert supervisord.sweep("ours") == 2
        assert ours.poll() is not None
        assert stubborn.poll() is not None
        assert theirs.poll() is None
        assert no.poll() is None
    assert supervisord.sweep("ours") == 0


def test_children_that_shed_the_mark_are_found_through_their_parent() -> None:
    with process("ours", PARENT) as parent:
        found = supervisord.members("ours")
        assert len(found) == 2
        assert supervisord.sweep("ours") == 2
        parent.wait()
        assert not any(child.is_running() and child.status() != "zombie" for child in found)


def test_what_is_kept_is_kept_with_its_children_and_strays_are_not() -> None:
    with process("ours", PARENT) as kept, process("ours") as stray:
        assert [member.pid for member in supervisord.members("ours", keep=psutil.Process(kept.pid))] == [stray.pid]
        assert supervisord.sweep("ours") == 3


def test_this_process_is_never_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"from pipeline.stack import supervisord; print(supervisord.sweep({'ours'!r}))"
    monkeypatch.setenv(supervisord.STACK_ID, "ours")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_socket_falls_back_to_a_short_private_path(tmp_path: Path) -> None:
    assert supervisord.socket_path(Path("/srv/fasten")) == Path("/srv/fasten/supervisor.sock")
    for folder in (tmp_path / ("x" * 90), tmp_path / "50% off; now"):
        path = supervisord.socket_path(folder)
        try:
            assert len(str(path)) < 60
            assert path.parent.stat().st_mode & 0o777 == 0o700
        finally:
            path.parent.rmdir()


def test_service_is_started_anew_only_if_what_is_set_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin")
    assert supervisord.write_service(tmp_path, services.mlflow(folder=tmp_path, port=20003))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert not supervisord.write_service(tmp_path, services.mlflow(folder=tmp_path, port=20003))
    assert supervisord.write_service(tmp_path, services.mlflow(folder=tmp_path, port=20004))
    assert (tmp_path / "mlflow.json").stat().st_mode & 0o777 == 0o600


def test_values_of_the_shell_s_environment_are_not_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-disk")
    worker = services.worker(prefect_port=20002, prefect_folder=tmp_path, home=tmp_path, project=tmp_path)
    supervisord.write_service(tmp_path, worker)
    written = (tmp_path / "worker.json").read_text()
    assert "AWS_SECRET_ACCESS_KEY" in written
    assert "not-for-disk" not in written


def test_launched_service_has_its_signals_and_its_environment_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTEN_GREETING", "hello")
    code = (
        "import os, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, "
        "signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, sorted(os.environ), os.getcwd())"
    )
    service = services.Service(
        endpoint=services.endpoint("mlflow", {"mlflow": 1}),
        command=(sys.executable, "-c", code),
        environment={"SET": "1", "LC_CTYPE": "C.UTF-8"},
        inherited={"FASTEN_GREETING": "hello"},
        cwd=tmp_path,
    )
    supervisord.write_service(tmp_path, service)
    # As from a shell that runs the command with `&`: SIGINT is ignored, and so it would be by whoever it starts.
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [
        sys.executable,
        "-c",
        ignoring,
        sys.executable,
        "-I",
        str(launch.__file__),
        str(tmp_path / "mlflow.json"),
    ]
    environment = {supervisord.STACK_ID: "ours", "FASTEN_GREETING": "hello", "STRAY": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    names = ["FASTEN_GREETING", "FASTEN_STACK_ID", "LC_CTYPE", "SET"]
    assert done.stdout == f"True True {names} {tmp_path}\n"


def test_no_supervisord_answers_on_a_socket_that_is_not_there(tmp_path: Path) -> None:
    assert not supervisord.answers(tmp_path / "supervisor.sock")


def test_free_ports_are_free_and_below_those_of_outgoing_connections() -> None:
    port = health.free_port()
    assert 20_000 <= port < 32_000
    assert health.port_is_free(port)


def test_waiting_ends_with_the_last_complaint_once_the_process_is_gone() -> None:
    complaints = iter(["no answer", "still no answer"])
    lives = iter([True, False])
    last = health.wait_until(lambda: next(complaints), timeout_s=60, alive=lambda: next(lives))
    assert last == "still no answer"
    assert health.wait_until(lambda: None, timeout_s=60, alive=lambda: False) is None


EVERY_SERVER = frozenset({"label-studio", "prefect", "mlflow"})


def test_where_every_server_is_elsewhere_nothing_is_started(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = StackConfig(home=tmp_path)
    state = up(config, external=EVERY_SERVER)
    assert (state.urls, state.started) == ({}, frozenset())
    assert not (config.folder / "supervisord.conf").exists()
    assert (tmp_path / "stack.env").read_text() == ""
    assert status(config, external=EVERY_SERVER) == []
    assert caplog.messages == [
        "Prefect is external, so no worker is started here; where runs belong: "
        'eval "$(fasten env)"; prefect worker start --pool fasten'
    ]


def test_once_every_server_is_elsewhere_what_ran_here_is_ended(tmp_path: Path) -> None:
    config, mark = StackConfig(home=tmp_path), "of an earlier up"
    with exclusive(config):
        memory = Memory(
            home=str(tmp_path),
            stack_id=mark,
            socket=str(tmp_path / "none.sock"),
            ports={"mlflow": 20003},
            services=("mlflow",),
        )
        save_memory(config, memory)
    with process(mark) as left:
        up(config, external=EVERY_SERVER)
        left.wait(timeout=10)  # raises where it lives on
    assert status(config) == []
    wanted = status(config, external=EVERY_SERVER - {"mlflow", "label-studio"})
    assert [(service.name, service.detail) for service in wanted] == [
        ("label-studio", "never started"),
        ("mlflow", "not running"),
    ]
