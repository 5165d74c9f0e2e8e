"""A real Label Studio that may be killed and started again on the same data and port."""

import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from pydantic import SecretStr

from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.stack import health, services
from pipeline.stack.install import LabelStudioInstall, copy_template


class KillableServer:
    """One server; `url` and `data_dir` stay the same over all of its lives."""

    def __init__(self, install: LabelStudioInstall, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = folder / "data"
        copy_template(install, self.data_dir)
        self.files.mkdir(exist_ok=True)
        self.token = secrets.token_hex(20)
        """Of the administrator; a test that revokes it puts the new one here."""
        login = services.LabelStudioLogin(
            username=services.USERNAME, password=SecretStr("killed-by-tests"), token=SecretStr(self.token)
        )
        service = services.label_studio(install, data_dir=self.data_dir, port=health.free_port(), login=login)
        self._service = replace(service, environment={**service.environment, **(environment or {})})
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._service.endpoint.url

    @property
    def files(self) -> Path:
        """Root of the local files."""
        return self.data_dir / "files"

    def start(self) -> None:
        """Start it where it does not run, and wait until it is well."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                self._service.command,
                env={**self._service.inherited, **self._service.environment},
                cwd=self._service.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._process = process
        complaint = health.wait_until(
            lambda: health.ask(self._service.endpoint), timeout_s=120, alive=lambda: process.poll() is None
        )
        assert complaint is None, f"{complaint}: {self._log.read_text()[-2000:]}"

    def kill(self) -> None:
        """SIGKILL, for it and whatever it has started."""
        if self._process is None:
            return
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for member in family:
            member.kill()
        self._process.wait()
        self._process = None

    @contextmanager
    def door(self) -> Iterator[LabelStudio]:
        """The administrator's door, past any proxy."""
        config = LabelStudioConfig(url=self.url, token=SecretStr(self.token), read_attempts=1)
        with LabelStudio(config) as opened:
            yield opened


@contextmanager
def killable(
    install: LabelStudioInstall, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[KillableServer]:
    """A running server on a fresh copy of the template, until the block ends."""
    server = KillableServer(install, folder, environment)
    try:
        server.start()
        yield server
    finally:
        server.kill()
