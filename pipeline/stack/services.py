"""The embedded servers: what each is started with, and how it shows that it is well.

Every command binds 127.0.0.1, and every environment turns telemetry, version checks and update prompts off.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from pipeline.stack.install import LabelStudioInstall, clean_environment, label_studio_environment

ServiceName = Literal["label-studio", "prefect", "mlflow", "worker"]

LOOPBACK = "127.0.0.1"
POOL = "fasten"
"""Process work pool that the embedded worker serves, as `prefect.yaml` names it."""
USERNAME = "admin@fasten.local"
"""Login of the embedded Label Studio's first user."""

# Label Studio recounts the whole project on each import of predictions without this flag (0.7 s per 1,000 with it).
_FAST_PREDICTIONS = "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One process to run, and the address that says whether it is well."""

    name: ServiceName
    command: tuple[str, ...]
    """Program and arguments; the program is an absolute path."""
    environment: Mapping[str, str]
    """The whole environment of the process; nothing is inherited beside it."""
    cwd: Path
    port: int | None
    """Loopback port that it listens on; None for the worker, which listens nowhere."""
    url: str
    """Address for a person's browser; the work pool's page for the worker."""
    health: str
    """`GET` of this answers 200 when the service is well; the worker's is asked in `pipeline.stack.health`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStudioLogin:
    """First user of an embedded Label Studio: made on the server's first start."""

    username: str
    password: SecretStr
    token: SecretStr
    """40 hexadecimal digits: a legacy API token, which the organisation is created to accept."""


def label_studio(install: LabelStudioInstall, *, data_dir: Path, port: int, login: LabelStudioLogin) -> Service:
    """Label Studio on SQLite; `data_dir` is a copy of the install's template (`install.copy_template`)."""
    url = f"http://{LOOPBACK}:{port}"
    files = data_dir.absolute() / "files"
    environment = label_studio_environment(data_dir) | {
        "LABEL_STUDIO_HOST": url,
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
        name="label-studio",
        command=(*command, "--internal-host", LOOPBACK, "--port", str(port)),
        environment=environment,
        cwd=data_dir.absolute(),
        port=port,
        url=url,
        health=f"{url}/health",
    )
