"""What the embedded servers are started with."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.stack import services
from pipeline.stack.install import LabelStudioInstall

LOGIN = services.LabelStudioLogin(username="a@b.c", password=SecretStr("hush"), token=SecretStr("f" * 40))


def every_server(home: Path) -> list[services.Service]:
    install = LabelStudioInstall(python=Path("/venv/bin/python"), template=home / "template")
    return [
        services.label_studio(install, data_dir=home / "label-studio", port=20001, login=LOGIN),
        services.prefect(folder=home / "prefect", port=20002),
        services.mlflow(folder=home / "mlflow", port=20003),
    ]


def test_every_server_is_told_to_bind_loopback_and_its_port(tmp_path: Path) -> None:
    for service, option in zip(every_server(tmp_path), ("--internal-host", "--host", "--host"), strict=True):
        command = service.command
        assert command[command.index(option) + 1] == "127.0.0.1"
        assert command[command.index("--port") + 1] == str(service.endpoint.port)
        assert service.endpoint.url == f"http://127.0.0.1:{service.endpoint.port}"


def test_telemetry_is_off_everywhere(tmp_path: Path) -> None:
    label_studio, prefect, mlflow = every_server(tmp_path)
    assert label_studio.environment["LABEL_STUDIO_COLLECT_ANALYTICS"] == "false"
    assert label_studio.environment["LABEL_STUDIO_LATEST_VERSION_CHECK"] == "false"
    assert prefect.environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert mlflow.environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_no_secret_stands_on_a_command_line(tmp_path: Path) -> None:
    for service in every_server(tmp_path):
        assert not {"hush", "f" * 40} & set(" ".join(service.command).split())


def test_worker_takes_the_settings_of_the_shell_but_no_other_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTEN_RHO", "0.9")
    monkeypatch.setenv("FASTEN_HOME", "/elsewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("PREFECT_API_KEY", "of the company's server")
    worker = services.worker(prefect_port=20002, prefect_folder=tmp_path / "prefect", home=tmp_path, project=tmp_path)
    assert worker.environment["FASTEN_RHO"] == "0.9"
    assert worker.environment["FASTEN_HOME"] == str(tmp_path)
    assert worker.environment["PREFECT_API_URL"] == "http://127.0.0.1:20002/api"
    assert worker.inherited["CUDA_VISIBLE_DEVICES"] == "0"
    assert "PREFECT_API_KEY" not in {**worker.inherited, **worker.environment}
    assert worker.endpoint.port is None
