"""What doctor finds where nothing, or something wrong, is set; the real servers are in the integration tests."""

from pathlib import Path

import pytest

from pipeline.doctor import Finding, examine
from pipeline.errors import ServiceUnavailable
from pipeline.setting_sources import STACK_ENV
from pipeline.settings import Settings
from pipeline.stack.health import free_port


def found(settings: Settings) -> dict[str, Finding]:
    findings = {finding.what: finding for finding in examine(settings)}
    assert all("\n" not in finding.detail for finding in findings.values())
    return findings


@pytest.mark.usefixtures("own_folder")
def test_with_nothing_set_each_server_is_a_problem_that_says_how_to_get_one() -> None:
    findings = found(Settings(device="cpu"))
    assert {what: finding.level for what, finding in findings.items()} == {
        "Label Studio": "problem",
        "Prefect": "problem",
        "MLflow": "problem",
        "device": "ok",
        "disk": "ok",
    }
    for what, variable in (
        ("Label Studio", "FASTEN_LABEL_STUDIO_URL"),
        ("Prefect", "FASTEN_PREFECT_API_URL"),
        ("MLflow", "FASTEN_MLFLOW_TRACKING_URI"),
    ):
        assert "fasten up" in findings[what].detail
        assert variable in findings[what].detail


@pytest.mark.usefixtures("own_folder")
def test_a_missing_token_is_named_before_anything_is_asked() -> None:
    findings = found(Settings(label_studio_url="http://127.0.0.1:9"))
    assert findings["Label Studio"].level == "problem"
    assert "FASTEN_LABEL_STUDIO_TOKEN" in findings["Label Studio"].detail


@pytest.mark.usefixtures("own_folder")
def test_servers_that_do_not_answer_are_told_with_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"

    def no_answer(api_url: str) -> str:
        raise ServiceUnavailable(f"Prefect at {api_url} does not answer")

    # Waiting for either is tested beside its own door.
    monkeypatch.setattr("pipeline.orchestrator.server_version", no_answer)
    monkeypatch.setattr("pipeline.label_studio.LabelStudio.check", lambda _: no_answer(nobody))
    settings = Settings(
        label_studio_url=nobody, label_studio_token="x" * 40, prefect_api_url=f"{nobody}/api", device="cpu"
    )
    findings = found(settings)
    for what in ("Label Studio", "Prefect"):
        assert findings[what].level == "problem"
        assert nobody in findings[what].detail
    assert "projects" not in findings
    assert "deployment" not in findings, "what cannot be known is not guessed at"
    assert "x" * 40 not in str(findings)


@pytest.mark.parametrize("own", [True, False])
def test_who_lacks_a_worker_is_told_what_helps(own_folder: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """`fasten up` starts none beside a Prefect of the user's own, and `prefect` has to know where that is."""
    monkeypatch.setattr("pipeline.orchestrator.server_version", lambda _: "3.8")
    monkeypatch.setattr("pipeline.orchestrator.deployment_schedules", lambda _: [])
    monkeypatch.setattr("pipeline.orchestrator.workers_online", lambda _: 0)
    address = "FASTEN_PREFECT_API_URL=http://127.0.0.1:4200/api"
    if own:
        monkeypatch.setenv(*address.split("="))
    else:
        (own_folder / ".fasten").mkdir()
        (own_folder / ".fasten" / STACK_ENV).write_text(f"{address}\n")
    worker = found(Settings(device="cpu"))["worker"]
    way_out = 'eval "$(fasten env)"; prefect worker start --pool fasten' if own else "run `fasten up`"
    assert (worker.level, worker.detail) == ("problem", f"no worker serves the work pool “fasten”: {way_out}")


@pytest.mark.usefixtures("own_folder")
def test_a_device_that_is_not_there_is_a_problem() -> None:
    device = found(Settings(device="cuda:97"))["device"]
    assert (device.level, "cuda:97" in device.detail) == ("problem", True)


def test_disk_is_that_of_the_data_folder_which_need_not_exist(own_folder: Path) -> None:
    data = own_folder / "not" / "yet"
    disk = found(Settings(data_dir=data))["disk"]
    assert disk.level == "ok"
    assert str(data) in disk.detail
    assert not data.parent.exists()


@pytest.mark.usefixtures("own_folder")
def test_little_disk_is_a_problem_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 2**30

    monkeypatch.setattr("pipeline.doctor.shutil.disk_usage", lambda _: Usage)
    disk = found(Settings())["disk"]
    assert disk.level == "problem"
    assert "1 GiB free" in disk.detail
    assert "FASTEN_DATA_DIR" in disk.detail


def test_a_snapshot_store_is_looked_at_where_one_is_set(own_folder: Path) -> None:
    assert "snapshot store" not in found(Settings(device="cpu"))
    share = own_folder / "share"
    assert found(Settings(device="cpu", snapshot_store=str(share)))["snapshot store"].detail.endswith("or mount it")
    share.mkdir()
    finding = found(Settings(device="cpu", snapshot_store=str(share)))["snapshot store"]
    assert (finding.level, finding.detail) == ("ok", str(share))
