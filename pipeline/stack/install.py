"""Label Studio's own environment: installed once, migrated once, kept in the cache.

The server cannot share an environment with Prefect (their pins of python-json-logger clash), so it gets a uv
environment of its own, made from the hashed lock beside this file. A database that has been migrated from nothing
takes half a minute; the cache keeps one as a template, so that each later data folder is a copy and starts in
seconds. The template holds no user, no token and no signing key: a server makes those on its first start.
"""

import contextlib
import fcntl
import hashlib
import importlib.resources
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uv

from pipeline.errors import StackError

logger = logging.getLogger(__name__)

_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStudioInstall:
    """An installed Label Studio and a migrated, empty data folder to copy."""

    python: Path
    """Interpreter of the server's own environment."""
    template: Path
    """Data folder with the migrated SQLite database; copy it, never run a server on it."""


def clean_environment() -> dict[str, str]:
    """What a server may inherit from the shell that starts it.

    Label Studio reads settings under bare names too (`HOST`, `PORT`, `USERNAME`, `DATABASE_NAME`), and Prefect and
    MLflow read every `PREFECT_…` and `MLFLOW_…` there is: an embedded server must not change with the shell it was
    started from.
    """
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}
    return {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **kept}


def label_studio_environment(data_dir: Path) -> dict[str, str]:
    """What every Label Studio process on `data_dir` is told: SQLite, no telemetry, no version check, no Sentry."""
    return {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir.absolute()),
        "DJANGO_DB": "sqlite",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_SENTRY_DSN": "",
        "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
        "DO_NOT_TRACK": "true",
    }


def ensure_label_studio(cache: Path) -> LabelStudioInstall:
    """Return the installed server of the locked version, after making it if `cache` has none.

    It is made under another name and renamed when it is whole, so a broken attempt is simply made again, and two
    processes that ask at once make it once. Needs a package index the first time, and nothing the next.

    Raises:
        StackError: uv cannot install it, or its database cannot be migrated.
    """
    lock = importlib.resources.files("pipeline.stack").joinpath("label-studio.txt").read_text(encoding="utf-8")
    version = _locked_version(lock)
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{minor}\n{lock}".encode()).hexdigest()[:8]
    cache = cache.absolute()
    home = cache / f"label-studio-{version}-{digest}"
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with _exclusive(cache / f"{home.name}.lock"):
            if not home.is_dir():
                _make(home, lock=lock, version=version)
    return _install_at(home)


def copy_template(install: LabelStudioInstall, data_dir: Path) -> None:
    """Make `data_dir` a fresh, migrated data folder, unless it has a database already."""
    if (data_dir / "label_studio.sqlite3").exists():
        return
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in sorted(install.template.iterdir()):
        target = data_dir / entry.name
        if entry.is_dir():
            shutil.copytree(entry, target, dirs_exist_ok=True)
        elif entry.name != "label_studio.sqlite3":
            shutil.copy2(entry, target)
    # The database goes last and by rename: where it is, the copy is whole.
    staged = data_dir / "label_studio.sqlite3.staged"
    shutil.copy2(install.template / "label_studio.sqlite3", staged)
    staged.replace(data_dir / "label_studio.sqlite3")


def _install_at(home: Path) -> LabelStudioInstall:
    return LabelStudioInstall(python=home / "venv" / "bin" / "python", template=home / "template")


def _locked_version(lock: str) -> str:
    found = re.search(r"^label-studio==(\S+)", lock, flags=re.MULTILINE)
    if found is None:
        raise StackError("pipeline/stack/label-studio.txt pins no label-studio; run `make lock`")
    return found.group(1)


def _make(home: Path, *, lock: str, version: str) -> None:
    for leftover in home.parent.glob(f"{home.name}.making-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{home.name}.making-", dir=home.parent))
    try:
        logger.info("installing Label Studio %s into an environment of its own (once, about 800 MB)", version)
        requirements = staging / "requirements.txt"
        requirements.write_text(lock, encoding="utf-8")
        venv = staging / "venv"
        python = sys.executable
        uv_bin = uv.find_uv_bin()
        # Relocatable, because the folder is renamed once it is whole.
        _run([uv_bin, "venv", "--quiet", "--relocatable", "--no-python-downloads", "--python", python, str(venv)])
        install = [uv_bin, "pip", "install", "--require-hashes", "--no-python-downloads"]
        _run([*install, "--python", str(venv / "bin" / "python"), "-r", str(requirements)])
        logger.info("migrating Label Studio's database (once, about half a minute)")
        staged = _install_at(staging)
        staged.template.mkdir(mode=0o700)
        # `version` migrates the database as `start` would, and makes no user and no organisation.
        _run(
            [str(staged.python), "-P", "-m", "label_studio.server", "version"],
            env=clean_environment() | label_studio_environment(staged.template),
            quiet=True,
        )
        # The signing key of sessions and tokens: every copy must make its own.
        (staged.template / ".env").unlink(missing_ok=True)
        if not (staged.template / "label_studio.sqlite3").is_file():
            raise StackError(f"Label Studio {version} migrated no database in {staged.template}; delete {home.parent}")
        staging.replace(home)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _run(command: Sequence[str], *, env: Mapping[str, str] | None = None, quiet: bool = False) -> None:
    """Run to the end, its lines into the log; StackError with the last one if it fails."""
    last = "no output"
    process = subprocess.Popen(
        list(command), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                last = line.strip()
                logger.log(logging.DEBUG if quiet or last.startswith("+ ") else logging.INFO, "%s", last)
    if process.returncode != 0:
        raise StackError(
            f"{Path(command[0]).name} {command[1]} failed with exit code {process.returncode} while Label Studio was "
            f"being installed: {last[:300]}; check that the package index is reachable and try again"
        )


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold an advisory lock on `path`; it goes with the process, however that ends."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
