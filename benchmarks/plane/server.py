"""A real Label Studio for one run, on SQLite or PostgreSQL, in a folder of its own and gone at the end."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from pydantic import SecretStr

from benchmarks.plane.figure import POSTGRESQL, SQLITE
from fasten_model.errors import DataError
from pipeline.label_studio import LabelStudioConfig
from pipeline.stack import health, services
from pipeline.stack.foreground import running, stop
from pipeline.stack.install import clean_environment, copy_template, ensure_label_studio

_CACHE = Path(__file__).parents[2] / ".fasten" / "cache"
_START_S = 300.0
"""PostgreSQL's tables are made from nothing: half a minute on an idle machine."""
_NOBODY = "nobody"
"""PostgreSQL refuses to run as root."""


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
            told = stack.enter_context(_postgresql())
            service = replace(service, environment={**service.environment, **told})
        stack.enter_context(running(service, log=folder / "label-studio.log", start_s=_START_S))
        yield Server(
            url=service.endpoint.url,
            token=login.token.get_secret_value(),
            database=POSTGRESQL if postgresql else SQLITE,
            files=data / "files",
        )


@contextmanager
def _postgresql() -> Iterator[Mapping[str, str]]:
    """A fresh PostgreSQL on loopback behind a password; → what Label Studio is told of it."""
    programs = _programs()
    owner = _NOBODY if os.geteuid() == 0 else None
    port, password = health.free_port(), secrets.token_hex(16)
    # Beside the rest, not in it: only its owner may look into PostgreSQL's folder, and root's is closed to that owner.
    with tempfile.TemporaryDirectory(prefix="data-plane-postgresql-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if owner is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, owner)
        data = folder / "data"
        made = subprocess.run(
            [str(programs / "initdb"), "-D", str(data), "-U", "fasten", "--encoding=utf8", "--auth=scram-sha-256",
             f"--pwfile={folder / 'password'}"],
            user=owner, env=clean_environment(), cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            raise DataError(f"PostgreSQL's folder could not be made: {made.stderr.strip()[-300:]}")
        process = subprocess.Popen(
            [str(programs / "postgres"), "-D", str(data), "-h", services.LOOPBACK, "-p", str(port), "-k", name],
            user=owner, env=clean_environment(), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for_postgresql(process, programs, port)
            yield {
                "DJANGO_DB": "default",
                "POSTGRE_NAME": "postgres",
                "POSTGRE_USER": "fasten",
                "POSTGRE_PASSWORD": password,
                "POSTGRE_HOST": services.LOOPBACK,
                "POSTGRE_PORT": str(port),
            }
        finally:
            stop(process)


def _programs() -> Path:
    """Folder of PostgreSQL's programs: one with the extensions pg_trgm and btree_gin, which Label Studio's tables need.

    The wheels that bring a PostgreSQL of their own lack both.
    """
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        raise DataError("--postgres needs PostgreSQL's initdb on the PATH, with its extensions (postgresql-contrib)")
    return folders[-1]


def _wait_for_postgresql(process: "subprocess.Popen[bytes]", programs: Path, port: int) -> None:
    asked = [str(programs / "pg_isready"), "-q", "-h", services.LOOPBACK, "-p", str(port)]
    deadline = time.monotonic() + _START_S
    while subprocess.run(asked, env=clean_environment(), check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise DataError("PostgreSQL did not start")
        time.sleep(0.1)
