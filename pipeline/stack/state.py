"""What the embedded stack remembers in its folder: where its servers are, its secrets, and which processes are its own.

Layout below `home` (`.fasten/`): `cache/` (Label Studio's environment, shared by every stack here), `label-studio/`,
`prefect/`, `mlflow/` (data of the servers), `logs/`, `stack/` (state, supervisord), `stack.env` (what the settings
read). State, secrets and stack.env are readable by their owner alone.
"""

import contextlib
import fcntl
import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import SecretStr, TypeAdapter, ValidationError

from pipeline.errors import StackError
from pipeline.stack.services import USERNAME, LabelStudioLogin, ServiceName
from pipeline.stack.supervisord import write_private

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StackConfig:
    """Where the embedded stack lives and how long its servers may take."""

    home: Path = Path(".fasten")
    """Folder of everything the stack writes."""
    cache: Path | None = None
    """Folder of Label Studio's environment and template; `<home>/cache` unless given."""
    project: Path = field(default_factory=Path.cwd)
    """Working directory of the worker: where `prefect.yaml`, `flows/` and `fasten.toml` are."""
    start_timeout_s: float = 180.0
    """Longest wait for one service to be well; a cold disk and two busy cores need about a minute."""

    def __post_init__(self) -> None:
        if self.start_timeout_s <= 0:
            raise ValueError(f"start_timeout_s must be above 0, not {self.start_timeout_s}")

    @property
    def folder(self) -> Path:
        """Folder of state and supervisord."""
        return self.home.absolute() / "stack"

    @property
    def install_cache(self) -> Path:
        """Folder of Label Studio's environment and template."""
        return self.cache or self.home.absolute() / "cache"

    @property
    def logs(self) -> Path:
        """Folder of one log per service."""
        return self.home.absolute() / "logs"

    def log(self, name: ServiceName) -> Path:
        """Where a service's output goes."""
        return self.logs / f"{name}.log"


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """`stack/state.json`: what one `up` leaves for the next, and for `down` and `status`."""

    home: str
    """The folder this was written for: a copy of it elsewhere must not stop the original's processes."""
    stack_id: str
    """The mark in the environment of each process of the stack; new with each start of supervisord."""
    socket: str
    """Where supervisord listens."""
    ports: Mapping[ServiceName, int]
    """Kept as long as they are free, so that addresses stay the same from day to day."""
    services: tuple[ServiceName, ...]
    """What was last asked to run."""


_MEMORY = TypeAdapter(Memory)


def load_memory(config: StackConfig) -> Memory | None:
    """The state of the stack in `config.home`; None where there was never one.

    Raises:
        StackError: it is there and cannot be read.
    """
    path = config.folder / "state.json"
    try:
        memory = _MEMORY.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StackError(f"{path} cannot be read ({type(error).__name__}); delete it and run `fasten up`") from None
    return memory if memory.home == str(config.home.absolute()) else None


def save_memory(config: StackConfig, memory: Memory) -> None:
    """Write the state of the stack."""
    write_private(config.folder / "state.json", json.dumps(asdict(memory), indent=1))


def label_studio_login(config: StackConfig) -> LabelStudioLogin:
    """Password and token of the embedded Label Studio, drawn the first time and kept."""
    path = config.folder / "secrets.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        password, token = str(kept["label_studio_password"]), str(kept["label_studio_token"])
    except FileNotFoundError:
        password, token = secrets.token_urlsafe(12), secrets.token_hex(20)
        write_private(path, json.dumps({"label_studio_password": password, "label_studio_token": token}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(
            f"{path} cannot be read ({type(error).__name__}): restore it, or delete {config.home} and start afresh"
        ) from None
    return LabelStudioLogin(username=USERNAME, password=SecretStr(password), token=SecretStr(token))


def write_stack_env(config: StackConfig, urls: Mapping[ServiceName, str], login: LabelStudioLogin) -> None:
    """Write `stack.env`, which the settings read below everything that a person has set."""
    lines = []
    if "label-studio" in urls:
        lines += [
            f"FASTEN_LABEL_STUDIO_URL={urls['label-studio']}",
            f"FASTEN_LABEL_STUDIO_TOKEN={login.token.get_secret_value()}",
            f"FASTEN_LABEL_STUDIO_USERNAME={login.username}",
            f"FASTEN_LABEL_STUDIO_PASSWORD={login.password.get_secret_value()}",
        ]
    if "prefect" in urls:
        lines.append(f"FASTEN_PREFECT_API_URL={urls['prefect']}/api")
    if "mlflow" in urls:
        lines.append(f"FASTEN_MLFLOW_TRACKING_URI={urls['mlflow']}")
    write_private(config.home.absolute() / "stack.env", "".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def exclusive(config: StackConfig) -> Iterator[None]:
    """One `up` or `down` at a time in this folder; the lock goes with its process, however that ends."""
    config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (config.folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another `fasten up` or `fasten down` in %s", config.home)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
