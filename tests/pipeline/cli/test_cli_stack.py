"""What `fasten up`, `status`, `down` and `env` print, whatever the stack says."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import embedded
from pipeline.cli.app import app
from pipeline.errors import ServiceUnavailable
from pipeline.stack import ServiceStatus
from pipeline.stack.services import ServiceName

pytestmark = pytest.mark.usefixtures("own_folder")
runner = CliRunner()


def status(name: ServiceName, *, pid: int | None = 17, detail: str = "well") -> ServiceStatus:
    url = f"http://127.0.0.1:20001/{name}" if pid else ""
    log = Path("logs") / f"{name}.log"
    return ServiceStatus(name=name, url=url, pid=pid, healthy=detail == "well", detail=detail, log=log)


def shown(monkeypatch: pytest.MonkeyPatch, *services: ServiceStatus) -> tuple[int, list[str]]:
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_USERNAME", "admin@fasten.local")
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_PASSWORD", "hush[/]")
    monkeypatch.setattr(embedded, "statuses", lambda _, *, external: [] if external else list(services))
    result = runner.invoke(app, ["status"])
    assert result.stderr == ""
    return result.exit_code, result.stdout.splitlines()


def test_a_stack_that_is_well_shows_each_address_and_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = shown(monkeypatch, status("label-studio"), status("worker"))
    assert code == 0
    assert lines[1].split() == ["label-studio", "well", "http://127.0.0.1:20001/label-studio", "17"]
    assert lines[2].split() == ["worker", "well", "http://127.0.0.1:20001/worker", "17"]
    assert lines[3:] == ["Label Studio login: admin@fasten.local / hush[/]"]


def test_one_that_is_ill_points_at_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = shown(monkeypatch, status("label-studio"), status("mlflow", detail="answers 500"))
    assert code == 1
    assert lines[-1] == "mlflow is not well, its log: logs/mlflow.log"


def test_where_nothing_runs_there_is_no_login_but_the_way_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = shown(monkeypatch, status("label-studio", pid=None, detail="not running"))
    assert code == 1
    assert lines[1:] == ["label-studio  not running  -        -  ", "start label-studio with `fasten up`"]


def test_where_only_some_run_the_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = shown(monkeypatch, status("mlflow"), status("worker", pid=None, detail="not running"))
    assert code == 1
    assert lines[-1] == "start worker with `fasten up`"


@pytest.fixture
def elsewhere(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Three servers of the user's own, which answer."""
    assert not any(own_folder.iterdir())
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", "http://labels.example")
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TOKEN", "x" * 40)
    monkeypatch.setenv("FASTEN_PREFECT_API_URL", "http://[::1]:4200/api")
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "postgresql://me:hush@db.example/mlflow")
    monkeypatch.setattr("pipeline.doctor._label_studio_alone", lambda _: "1.23 at its address")
    monkeypatch.setattr("pipeline.orchestrator.server_version", lambda _: "3.8")
    monkeypatch.setattr("pipeline.doctor._mlflow", lambda _: "3.17 at its address")
    return monkeypatch


@pytest.mark.usefixtures("elsewhere")
def test_servers_of_the_users_own_are_shown_and_nothing_is_to_be_started() -> None:
    result = runner.invoke(app, ["status"])
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["SERVICE", "HEALTH", "ADDRESS", "PID"],
        ["label-studio", "well", "http://labels.example", "yours"],
        ["mlflow", "well", "postgresql://db.example/mlflow", "yours"],
        ["prefect", "well", "http://[::1]:4200/api", "yours"],
    ]
    assert result.exit_code == 0
    assert not Path(".fasten").exists()


def test_one_of_the_users_own_that_is_ill_says_why_and_is_not_for_fasten_to_start(
    elsewhere: pytest.MonkeyPatch,
) -> None:
    def gone(_: object) -> str:
        raise ServiceUnavailable("MLflow at its address could not be reached")

    elsewhere.setattr("pipeline.doctor._mlflow", gone)
    result = runner.invoke(app, ["status"])
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[2].split() == ["mlflow", "not", "well", "postgresql://db.example/mlflow", "yours"]
    assert lines[4:] == ["mlflow is not well: MLflow at its address could not be reached"]


def test_what_is_fastens_own_is_shown_beside_what_is_not(elsewhere: pytest.MonkeyPatch) -> None:
    elsewhere.delenv("FASTEN_PREFECT_API_URL")
    result = runner.invoke(app, ["status"])
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert [line.split()[0] for line in lines[1:5]] == ["prefect", "worker", "label-studio", "mlflow"]
    assert lines[5:] == ["start prefect, worker with `fasten up`"]


def test_up_ends_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[frozenset[str]] = []
    monkeypatch.setattr(embedded, "start", lambda _, *, external: started.append(external))
    monkeypatch.setattr(embedded, "statuses", lambda _, **_external: [status("prefect")])
    monkeypatch.setattr("pipeline.doctor._mlflow", lambda _: "3.17 at its address")
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "http://mlflow.example")
    result = runner.invoke(app, ["up"])
    assert result.exit_code == 0
    assert started == [frozenset({"mlflow"})]
    assert "http://127.0.0.1:20001/prefect" in result.stdout


@pytest.mark.parametrize(("count", "says"), [(0, "nothing was running\n"), (7, "stopped, 7 processes in all\n")])
def test_down_says_what_it_stopped(monkeypatch: pytest.MonkeyPatch, count: int, says: str) -> None:
    monkeypatch.setattr(embedded, "stop", lambda _: count)
    result = runner.invoke(app, ["down"])
    assert (result.exit_code, result.stdout) == (0, says)


def test_env_is_what_a_shell_can_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "sqlite:////tmp/a b;$(touch x)/mlflow.db")
    result = runner.invoke(app, ["env"])
    assert result.stdout == "export MLFLOW_TRACKING_URI='sqlite:////tmp/a b;$(touch x)/mlflow.db'\n"
    monkeypatch.setenv("FASTEN_PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert runner.invoke(app, ["env"]).stdout.splitlines()[0] == "export PREFECT_API_URL=http://127.0.0.1:4200/api"
