"""The real servers that the integration tests share."""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from pydantic import SecretStr

from pipeline.stack import health, services
from pipeline.stack.install import LabelStudioInstall, copy_template, ensure_label_studio
from pipeline.tracking import Tracking, TrackingConfig

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStudioServer:
    """A real Label Studio on loopback, shared by the session: make projects of your own, and count on no other."""

    url: str
    token: str
    username: str
    password: str
    data_dir: Path
    """Its data folder; `files/` below it is the root of its local files."""


@pytest.fixture(scope="session")
def label_studio_install() -> LabelStudioInstall:
    """Label Studio's environment and migrated template, made once in the repository's cache."""
    return ensure_label_studio(REPOSITORY / ".fasten" / "cache")


@pytest.fixture(scope="session")
def label_studio(
    label_studio_install: LabelStudioInstall, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelStudioServer]:
    """A running server on a fresh copy of the template."""
    folder = tmp_path_factory.mktemp("label-studio")
    copy_template(label_studio_install, folder / "data")
    (folder / "data" / "files").mkdir()
    login = services.LabelStudioLogin(
        username=services.USERNAME, password=SecretStr("reviewed-by-tests"), token=SecretStr(secrets.token_hex(20))
    )
    service = services.label_studio(
        label_studio_install, data_dir=folder / "data", port=health.free_port(), login=login
    )
    with running(service, log=folder / "log"):
        yield LabelStudioServer(
            url=service.endpoint.url,
            token=login.token.get_secret_value(),
            username=login.username,
            password=login.password.get_secret_value(),
            data_dir=folder / "data",
        )


class MlflowServer:
    """A real MLflow tracking server on SQLite, shared by the session: use an experiment and a model of your own."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        self.folder = folder
        self.client = MlflowClient(uri, uri)

    def door(self, name: str) -> Tracking:
        """A door whose experiment and model are its own."""
        return Tracking(TrackingConfig(uri=self.uri, experiment=f"experiment {name}", model_name=name))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """MLflow as the embedded stack starts it."""
    folder = tmp_path_factory.mktemp("mlflow")
    service = services.mlflow(folder=folder, port=health.free_port())
    with running(service, log=folder / "log"):
        yield MlflowServer(service.endpoint.url, folder)


@contextmanager
def running(service: services.Service, *, log: Path) -> Iterator[None]:
    """Run one service of the stack until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            service.command,
            env={**service.inherited, **service.environment},
            cwd=service.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        complaint = health.wait_until(
            lambda: health.ask(service.endpoint), timeout_s=120, alive=lambda: process.poll() is None
        )
        assert complaint is None, f"{complaint}: {log.read_text()[-2000:]}"
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
