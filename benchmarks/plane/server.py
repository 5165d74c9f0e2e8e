"""A real Label Studio for one run, on SQLite or PostgreSQL, in a folder of its own and gone at the end."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from pydantic import SecretStr

from benchmarks.plane.figure import POSTGRESQL, SQLITE
from benchmarks.plane.postgresql import postgres
from pipeline.label_studio import LabelStudioConfig
from pipeline.stack import health, services
from pipeline.stack.foreground import running
from pipeline.stack.install import copy_template, ensure_label_studio

_CACHE = Path(__file__).parents[2] / ".fasten" / "cache"
_START_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """One running Label Studio."""

    url: str
    token: str
    database: str
    files: Path
    """Root of its local files."""

    @property
    def config(self) -> LabelStudioConfig:
        """What the product's door needs."""
        return LabelStudioConfig(url=self.url, token=SecretStr(self.token))

    def bare(self) -> httpx.Client:
        """A client that only authenticates."""
        headers = {"Authorization": f"Token {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=600, trust_env=False)


@contextmanager
def label_studio(folder: Path, *, postgresql: bool = False) -> Iterator[Server]:
    """A fresh server below `folder`, on loopback, stopped by its process id when the block ends."""
    install = ensure_label_studio(_CACHE)
    data = folder / "label-studio"
    copy_template(install, data)
    (data / "files").mkdir()
    login = services.LabelStudioLogin(
        username=services.USERNAME,
        password=SecretStr(secrets.token_hex(8)),
        token=SecretStr(secrets.token_hex(20)),
    )
    service = services.label_studio(install, data_dir=data, port=health.free_port(), login=login)
    with ExitStack() as stack:
        if postgresql:
            database = stack.enter_context(postgres(install, _CACHE, durable=True))
            service = replace(service, environment={**service.environment, **database.environment})
        stack.enter_context(running(service, log=folder / "label-studio.log", start_s=_START_S))
        yield Server(
            url=service.endpoint.url,
            token=login.token.get_secret_value(),
            database=POSTGRESQL if postgresql else SQLITE,
            files=data / "files",
        )
