"""`fasten up`, `status` and `down`: the stack and what Prefect has to know of it, in the right order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import embedded, orchestrator
from pipeline.errors import ConfigError, ServiceUnavailable
from pipeline.setting_sources import STACK_ENV
from pipeline.settings import load_settings
from pipeline.stack import StackConfig

API = "http://127.0.0.1:4200/api"


class Calls(list[tuple[Any, ...]]):
    """What was done, in order; the stack itself is tested on its own."""

    writes_addresses = True

    def up(self, config: StackConfig, *, external: frozenset[str], before_worker: Callable[[str], None]) -> None:
        self.append(("servers", config.home, config.project, sorted(external)))
        before_worker(API)
        self.append(("worker",))
        if self.writes_addresses:
            config.home.mkdir(exist_ok=True)
            (config.home / STACK_ENV).write_text(f"FASTEN_PREFECT_API_URL={API}\n")

    def mark_dead_runs(self, api_url: str) -> int:
        self.append(("bury", api_url))
        return 2

    def deploy(self, api_url: str, root: Path) -> None:
        self.append(("deploy", api_url, root))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()
    monkeypatch.setattr(embedded, "up", made.up)
    monkeypatch.setattr(orchestrator, "mark_dead_runs", made.mark_dead_runs)
    monkeypatch.setattr(orchestrator, "deploy", made.deploy)
    return made


@pytest.fixture
def project(own_folder: Path) -> Path:
    (own_folder / "prefect.yaml").write_text("deployments: []\n")
    return own_folder


def test_dead_runs_are_buried_before_a_worker_can_take_new_ones_and_deployments_come_last(
    project: Path, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    embedded.start(load_settings(), external=frozenset({"mlflow"}))
    assert calls == [
        ("servers", Path(".fasten"), project, ["mlflow"]),
        ("bury", API),
        ("worker",),
        ("deploy", API, project),
    ]
    assert "2 flow run(s) that died with the last worker" in caplog.text


def test_deployments_go_to_the_users_own_prefect(project: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_PREFECT_API_URL", "http://prefect.example/api")
    embedded.start(load_settings(), external=frozenset({"prefect"}))
    assert calls[-1] == ("deploy", "http://prefect.example/api", project)


@pytest.mark.usefixtures("project")
def test_without_any_prefect_there_is_one_line(calls: Calls) -> None:
    calls.writes_addresses = False
    with pytest.raises(ConfigError, match="FASTEN_PREFECT_API_URL"):
        embedded.start(load_settings(), external=frozenset({"prefect"}))


@pytest.mark.usefixtures("own_folder")
def test_outside_the_projects_folder_nothing_is_started(calls: Calls) -> None:
    with pytest.raises(ConfigError, match=r"no prefect\.yaml"):
        embedded.start(load_settings(), external=frozenset())
    assert calls == []


@pytest.mark.usefixtures("project")
def test_a_prefect_that_does_not_answer_stops_the_start(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(_: str) -> int:
        raise ServiceUnavailable("Prefect does not answer")

    monkeypatch.setattr(orchestrator, "mark_dead_runs", no_answer)
    with pytest.raises(ServiceUnavailable):
        embedded.start(load_settings(), external=frozenset())
    assert ("worker",) not in calls


def test_what_was_never_started_is_not_well_and_nothing_is_stopped(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTEN_HOME", str(own_folder / "home"))
    settings = load_settings()
    statuses = embedded.statuses(settings, external=frozenset())
    assert [status.name for status in statuses] == ["label-studio", "prefect", "mlflow", "worker"]
    assert not any(status.healthy for status in statuses)
    statuses = embedded.statuses(settings, external=frozenset({"prefect"}))
    assert [status.name for status in statuses] == ["label-studio", "mlflow"], "the worker is the user's own, too"
    assert embedded.stop(settings) == 0
    assert not (own_folder / "home").exists()


def test_deployments_are_registered_again_only_when_they_changed_or_are_gone(
    project: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule that somebody paused stays paused: registering the deployment again would start it."""
    there = True

    def schedules(_: str) -> list[str]:
        if there:
            return ["0 2 * * *"]
        raise ConfigError("no deployment")

    monkeypatch.setattr(orchestrator, "deployment_schedules", schedules)

    def deployed() -> int:
        calls.clear()
        embedded.start(load_settings(), external=frozenset())
        return sum(call[0] == "deploy" for call in calls)

    assert [deployed(), deployed()] == [1, 0]
    (project / "prefect.yaml").write_text("deployments: [another]\n")
    assert [deployed(), deployed()] == [1, 0]
    there = False
    assert deployed() == 1
