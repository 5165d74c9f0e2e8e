"""The real servers that the integration tests share."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from pydantic import SecretStr

from pipeline.demo.datasets import DemoDataset, load_dataset
from pipeline.demo.enter import Entered, Titles, enter_dataset
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.records import Project, Task
from pipeline.review_screen import REVIEW_CONTROL
from pipeline.settings import Settings, load_settings
from pipeline.stack import health, services
from pipeline.stack.foreground import running
from pipeline.stack.install import LabelStudioInstall, copy_template, ensure_label_studio
from pipeline.tracking import Tracking, TrackingConfig
from pipeline.workspace import Workspace
from tests.integration.studio import CONFIG, Counting, Studio

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

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


class NewPeople(Protocol):
    """Makes people, each with a door of their own; their addresses begin with `name`."""

    def __call__(self, name: str, count: int) -> list[LabelStudio]: ...


@pytest.fixture(scope="session")
def new_people(label_studio: LabelStudioServer, door: LabelStudio) -> Iterator[NewPeople]:
    """People who label and review."""
    with ExitStack() as stack:

        def make(name: str, count: int) -> list[LabelStudio]:
            users = [door.add_user(f"{name}-{number}@fasten.local", "reviewing-1") for number in range(count)]
            configs = [LabelStudioConfig(url=label_studio.url, token=user.token) for user in users]
            return [stack.enter_context(LabelStudio(config)) for config in configs]

        yield make


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


@pytest.fixture(scope="session")
def door(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    """The administrator's door to the session's Label Studio."""
    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token), read_attempts=1)
    with LabelStudio(config) as opened:
        yield opened


@pytest.fixture(scope="session")
def digits() -> DemoDataset:
    """Three hundred real digits, as three simulated annotators and an auditor labelled them."""
    return load_dataset("digits", limit=300)


@pytest.fixture(scope="session")
def entered(door: LabelStudio, digits: DemoDataset) -> Entered:
    """Those digits in Label Studio. Rounds only read these two projects: leave them as they are."""
    return enter_dataset(door, digits, Titles.of("300 digits"), password=SecretStr("they-all-share-it"))


class Loop:
    """The flow `fasten` with a data folder, review project, experiment and registered model of its own."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str], mlflow: MlflowClient) -> None:
        self.name = name
        self.review_title = environment["FASTEN_REVIEW_PROJECT"]
        self.environment = dict(environment)
        self.mlflow = mlflow
        self.data_folder = folder / "home" / "data"
        self._folder = folder

    @contextmanager
    def configured(self) -> Iterator[None]:
        """These settings, and none of the shell's, in the environment."""
        with pytest.MonkeyPatch.context() as patch:
            for variable in [name for name in os.environ if name.startswith("FASTEN_")]:
                patch.delenv(variable)
            for variable, value in self.environment.items():
                patch.setenv(variable, value)
            patch.chdir(self._folder)
            yield

    def run(self, **parameters: Any) -> "State[Any]":
        """One round, in this process."""
        from flows.retrain import fasten

        with self.configured():
            state: State[Any] = fasten(**parameters, return_state=True)
        return state

    @property
    def settings(self) -> Settings:
        with self.configured():
            return load_settings()

    def workspace(self, labels: Project) -> Workspace:
        return Workspace.of(self.settings, labels.project_id)

    def files(self) -> set[str]:
        """Every file below the data folder that is not the lock of a pull."""
        root = self.data_folder
        return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name != ".pull.lock"}

    def queue(self, door: LabelStudio) -> list[Task]:
        """Every task of the review project, in the order of ids."""
        return list(door.iter_tasks(door.find_project(self.review_title, control=REVIEW_CONTROL)))

    def runs(self) -> list[Run]:
        """The experiment's runs, the latest first."""
        experiment = self.mlflow.get_experiment_by_name(self.name)
        return list(self.mlflow.search_runs([experiment.experiment_id])) if experiment is not None else []

    def versions(self) -> dict[str, tuple[str, ...]]:
        """Registered version → its aliases."""
        found = self.mlflow.search_model_versions(f"name = '{self.name}'")
        known = (self.mlflow.get_model_version(self.name, v.version) for v in found)
        return {str(version.version): tuple(sorted(version.aliases)) for version in known}


class NewLoop(Protocol):
    """Makes a `Loop`; settings are given without their prefix, in capitals."""

    def __call__(self, name: str, **settings: str) -> Loop: ...


@pytest.fixture(scope="session")
def new_loop(
    label_studio: LabelStudioServer,
    mlflow_server: MlflowServer,
    prefect_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> NewLoop:
    """Loops over the session's servers that share nothing else."""

    def make(name: str, **settings: str) -> Loop:
        folder = tmp_path_factory.mktemp("loop")
        environment = {
            "HOME": str(folder / "home"),
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_TOKEN": label_studio.token,
            "PREFECT_API_URL": prefect_server,
            "MLFLOW_TRACKING_URI": mlflow_server.uri,
            "MLFLOW_EXPERIMENT": name,
            "MLFLOW_MODEL_NAME": name,
            "REVIEW_PROJECT": f"{name}, review",
            "DEVICE": "cpu",
            "EPOCHS": "2",
        }
        prefixed = {f"FASTEN_{key}": value for key, value in (environment | settings).items() if value}
        return Loop(name, folder, prefixed, mlflow_server.client)

    return make


@pytest.fixture
def studio(label_studio: LabelStudioServer, request: pytest.FixtureRequest) -> Iterator[Studio]:
    wire = Counting()
    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token), page_size=10)
    with (
        LabelStudio(config, transport=wire) as door,
        httpx.Client(base_url=label_studio.url, headers=door.authorization()) as http,
    ):
        project = door.create_project(request.node.name.removeprefix("test_")[:50], CONFIG)
        yield Studio(door, project, http, wire)
