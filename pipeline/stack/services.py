"""The embedded servers: what each is started with, and how it shows that it is well.

Every command binds 127.0.0.1, and every environment turns telemetry, version checks and update prompts off.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import SecretStr

from pipeline.errors import StackError
from pipeline.stack.install import LabelStudioInstall, clean_environment, label_studio_environment

ServiceName = Literal["label-studio", "prefect", "mlflow", "worker"]

LOOPBACK = "127.0.0.1"
POOL = "fasten"
"""Process work pool that the embedded worker serves, as `prefect.yaml` names it."""
WORKER_COMMAND = f'eval "$(fasten env)"; prefect worker start --pool {POOL}'
"""What starts a worker for a Prefect of the user's own, which `fasten up` starts none for."""
USERNAME = "admin@fasten.local"
"""Login of the embedded Label Studio's first user."""

# Label Studio recounts the whole project on each import of predictions without this flag (0.7 s per 1,000 with it).
_FAST_PREDICTIONS = "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where a service is, and where it says whether it is well."""

    name: ServiceName
    port: int | None
    """Loopback port that it listens on; None for the worker, which listens nowhere."""
    url: str
    """Address for a person's browser; the work pool's page for the worker."""
    health: str
    """`GET` of this answers 200 when the service is well; for the worker, the pool's list of workers (`POST`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One process to run."""

    endpoint: Endpoint
    command: tuple[str, ...]
    """Program and arguments; the program is an absolute path."""
    environment: Mapping[str, str]
    """What is set for it. A running service whose command or environment is to change is started anew."""
    inherited: Mapping[str, str]
    """What it takes from the shell that started it: a change of these is no reason to start it anew."""
    cwd: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStudioLogin:
    """First user of an embedded Label Studio: made on the server's first start."""

    username: str
    password: SecretStr
    token: SecretStr
    """40 hexadecimal digits: a legacy API token, which the organisation is created to accept."""


def wanted(external: frozenset[str]) -> tuple[ServiceName, ...]:
    """What is to run here where `external` services are elsewhere: a worker only beside the embedded Prefect.

    Raises:
        StackError: no service has such a name.
    """
    known: tuple[ServiceName, ...] = get_args(ServiceName)
    if unknown := external - set(known):
        raise StackError(f"no service is named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    elsewhere = external | {"worker"} if "prefect" in external else external
    return tuple(name for name in known if name not in elsewhere)


def endpoint(name: ServiceName, ports: Mapping[ServiceName, int]) -> Endpoint:
    """Where a service of the stack is, when the servers have these ports; the worker's is at Prefect's."""
    port = ports["prefect" if name == "worker" else name]
    url = f"http://{LOOPBACK}:{port}"
    if name == "worker":
        pool = f"{url}/api/work_pools/{POOL}/workers/filter"
        return Endpoint(name=name, port=None, url=f"{url}/work-pools/work-pool/{POOL}", health=pool)
    return Endpoint(name=name, port=port, url=url, health=f"{url}/api/health" if name == "prefect" else f"{url}/health")


def label_studio(install: LabelStudioInstall, *, data_dir: Path, port: int, login: LabelStudioLogin) -> Service:
    """Label Studio on SQLite; `data_dir` is a copy of the install's template (`install.copy_template`)."""
    place = endpoint("label-studio", {"label-studio": port})
    files = data_dir.absolute() / "files"
    environment = label_studio_environment(data_dir) | {
        "LABEL_STUDIO_HOST": place.url,
        "LABEL_STUDIO_USERNAME": login.username,
        "LABEL_STUDIO_PASSWORD": login.password.get_secret_value(),
        "LABEL_STUDIO_USER_TOKEN": login.token.get_secret_value(),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
        _FAST_PREDICTIONS: "true",
    }
    command = (str(install.python), "-P", "-m", "label_studio.server", "start", "--no-browser")
    return Service(
        endpoint=place,
        command=(*command, "--internal-host", LOOPBACK, "--port", str(port)),
        environment=environment,
        inherited=clean_environment(),
        cwd=data_dir.absolute(),
    )


def prefect(*, folder: Path, port: int) -> Service:
    """Prefect's server and user interface, on SQLite in `folder`."""
    place = endpoint("prefect", {"prefect": port})
    command = (sys.executable, "-P", "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port))
    return Service(
        endpoint=place,
        command=command,
        environment=_prefect_environment(folder)
        | {
            "PREFECT_API_URL": f"{place.url}/api",
            "PREFECT_SERVER_UI_API_URL": f"{place.url}/api",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        },
        inherited=clean_environment(),
        cwd=folder.absolute(),
    )


def mlflow(*, folder: Path, port: int) -> Service:
    """MLflow's tracking server, on SQLite and local artifacts in `folder`."""
    place = endpoint("mlflow", {"mlflow": port})
    folder = folder.absolute()
    command = (sys.executable, "-P", "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port))
    return Service(
        endpoint=place,
        command=(
            *command,
            "--workers=1",
            f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
            f"--artifacts-destination={folder / 'artifacts'}",
        ),
        # Without the job runner the server is up in 6 s instead of 28 s.
        environment=_MLFLOW_QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        inherited=clean_environment(),
        cwd=folder,
    )


def worker(*, prefect_port: int, prefect_folder: Path, home: Path, project: Path) -> Service:
    """A process worker of the pool `fasten`, which it makes if the server has none.

    It works in `project` (where `prefect.yaml` and `fasten.toml` are) and keeps the shell's environment, so that
    what training needs is there; the settings find the stack's addresses through `FASTEN_HOME`.
    """
    place = endpoint("worker", {"prefect": prefect_port})
    settings = {name: value for name, value in os.environ.items() if name.startswith("FASTEN_")}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FASTEN_", "PREFECT_", "LABEL_STUDIO_", "SUPERVISOR_"))
    }
    command = (sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", POOL, "--name", POOL)
    return Service(
        endpoint=place,
        command=(*command, "--type", "process", "--install-policy", "never"),
        environment=_prefect_environment(prefect_folder)
        | _MLFLOW_QUIET
        | settings
        | {
            "FASTEN_HOME": str(home.absolute()),
            "PREFECT_API_URL": f"http://{LOOPBACK}:{prefect_port}/api",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,fasten_model",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        },
        inherited=inherited,
        cwd=project.absolute(),
    )


_MLFLOW_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "DO_NOT_TRACK": "true",
}


def _prefect_environment(folder: Path) -> dict[str, str]:
    """Profiles, database and results below `folder`: a profile of the user's own never reaches an embedded server."""
    return {
        "PREFECT_HOME": str(folder.absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }
