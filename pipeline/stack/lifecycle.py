"""`fasten up` and `fasten down`: the embedded stack as a whole."""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from pipeline.errors import StackError
from pipeline.stack import health, processes, services, supervisord
from pipeline.stack.install import LabelStudioInstall, copy_template, ensure_label_studio
from pipeline.stack.services import Endpoint, LabelStudioLogin, Service, ServiceName
from pipeline.stack.state import (
    Memory,
    StackConfig,
    exclusive,
    label_studio_login,
    load_memory,
    save_memory,
    write_stack_env,
)

logger = logging.getLogger(__name__)

_SERVERS: tuple[ServiceName, ...] = ("label-studio", "prefect", "mlflow")


@dataclass(frozen=True, kw_only=True, slots=True)
class StackState:
    """A stack that is up."""

    home: Path
    urls: Mapping[ServiceName, str]
    """Address of each embedded service, for a browser."""
    started: frozenset[ServiceName]
    """What this call had to start."""
    login: LabelStudioLogin = field(repr=False)
    """First user of the embedded Label Studio."""


def up(
    config: StackConfig,
    *,
    external: frozenset[str] = frozenset(),
    before_worker: Callable[[str], None] | None = None,
) -> StackState:
    """Start what does not run of Label Studio, Prefect, MLflow and a worker, and wait until all of it is well.

    `external` names services that are elsewhere: they are not started, and are stopped if an earlier `up` had. A
    worker is started only for the embedded Prefect, since one more worker on a shared server would take its runs.
    Where every service is elsewhere nothing is started at all, supervisord included.

    `before_worker` is called with the address of Prefect's API once Prefect is well and before a worker is started:
    no flow run of the pool can be alive then, so those that Prefect believes to be running or pending were cut off.

    Raises:
        StackError: a service does not get well; what this call had started is stopped again.
    """
    names = services.wanted(external)
    if "prefect" in external and "worker" not in external:
        logger.info("Prefect is external, so no worker is started here; where runs belong: %s", services.WORKER_COMMAND)
    before = time.monotonic()
    with exclusive(config):
        config.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        login = label_studio_login(config)
        if not names:
            _leave_nothing(config)
            write_stack_env(config, {}, login)
            return StackState(home=config.home.absolute(), urls={}, started=frozenset(), login=login)
        install = ensure_label_studio(config.install_cache) if "label-studio" in names else None
        memory = _running(config) or _launch(config)
        running = processes.living(memory)
        # After looking, not before: what was killed a moment ago may have lived, and its child been no stray, till now.
        processes.end_strays(memory)
        started: set[ServiceName] = set()
        try:
            memory = replace(memory, ports=_ports(memory, running, names), services=names)
            save_memory(config, memory)
            wanted = _services(config, memory, login, install)
            for name in set(running) - set(names):
                processes.stop(memory, name)
            # The worker needs only Prefect; all the others start side by side.
            started.update(_start(config, memory, [wanted[name] for name in _SERVERS if name in wanted]))
            if "worker" in wanted:
                _wait_until_well(config, memory, wanted["prefect"].endpoint)
                if before_worker is not None and "worker" not in running:
                    before_worker(f"{wanted['prefect'].endpoint.url}/api")
                started.update(_start(config, memory, [wanted["worker"]]))
            for name, service in wanted.items():
                _wait_until_well(config, memory, service.endpoint)
                if name in started:
                    logger.info("%s is well after %.0f s: %s", name, time.monotonic() - before, service.endpoint.url)
        except BaseException:
            _undo(config, memory, started, everything=not running)
            raise
        urls = {name: service.endpoint.url for name, service in wanted.items()}
        write_stack_env(config, urls, login)
    return StackState(home=config.home.absolute(), urls=urls, started=frozenset(started), login=login)


def down(config: StackConfig) -> int:
    """Stop everything that `up` started, and nothing else; returns how many processes were ended.

    It needs neither the terminal of `up` nor a living supervisord: every process of the stack carries its mark, flow
    runs included.

    Raises:
        StackError: a process does not end.
    """
    if not config.folder.is_dir():
        return 0
    with exclusive(config):
        memory = load_memory(config)
        return 0 if memory is None else processes.shut_down(memory)


def _leave_nothing(config: StackConfig) -> None:
    """Stop what an earlier `up` had started, supervisord included: nothing is to run here any more."""
    memory = load_memory(config)
    if memory is not None:
        processes.shut_down(memory)
        save_memory(config, replace(memory, services=()))


def _running(config: StackConfig) -> Memory | None:
    """The memory of a stack whose supervisord answers."""
    memory = load_memory(config)
    return memory if memory is not None and supervisord.answers(Path(memory.socket)) else None


def _launch(config: StackConfig) -> Memory:
    """End what a dead supervisord left behind, and start a new one."""
    before = load_memory(config)
    if before is not None and (left := supervisord.sweep(before.stack_id)):
        logger.info("ended %d processes that an earlier stack had left behind", left)
    memory = Memory(
        home=str(config.home.absolute()),
        stack_id=secrets.token_hex(16),
        socket=str(supervisord.socket_path(config.folder)),
        ports={} if before is None else before.ports,
        services=(),
    )
    # Written before anything runs: whatever happens next, `down` knows the mark.
    save_memory(config, memory)
    configuration = supervisord.write_configuration(config.folder, socket_file=Path(memory.socket))
    supervisord.start(configuration, stack_id=memory.stack_id)
    complaint = health.wait_until(
        lambda: None if supervisord.answers(Path(memory.socket)) else "no answer", timeout_s=20, alive=lambda: True
    )
    if complaint is not None:
        supervisord.sweep(memory.stack_id)
        raise StackError(f"supervisord does not answer; see {config.logs / 'supervisord.log'}")
    return memory


def _services(
    config: StackConfig, memory: Memory, login: LabelStudioLogin, install: LabelStudioInstall | None
) -> dict[ServiceName, Service]:
    """What is to run, in the order it is started in; makes the folders that the servers need."""
    home, ports = config.home.absolute(), memory.ports
    made: dict[ServiceName, Service] = {}
    if install is not None:
        data_dir = home / "label-studio"
        copy_template(install, data_dir)
        (data_dir / "files").mkdir(exist_ok=True)
        made["label-studio"] = services.label_studio(
            install, data_dir=data_dir, port=ports["label-studio"], login=login
        )
    if "prefect" in memory.services:
        made["prefect"] = services.prefect(folder=home / "prefect", port=ports["prefect"])
    if "mlflow" in memory.services:
        made["mlflow"] = services.mlflow(folder=home / "mlflow", port=ports["mlflow"])
    if "worker" in memory.services:
        made["worker"] = services.worker(
            prefect_port=ports["prefect"], prefect_folder=home / "prefect", home=home, project=config.project
        )
    for name in {"prefect", "mlflow"} & set(made):
        (home / name).mkdir(exist_ok=True, mode=0o700)
    return made


def _ports(
    memory: Memory, running: Mapping[ServiceName, psutil.Process], names: Iterable[ServiceName]
) -> dict[ServiceName, int]:
    ports = dict(memory.ports)
    for name in (name for name in _SERVERS if name in names and name not in running):
        kept = ports.get(name)
        if kept is None or not health.port_is_free(kept):
            ports[name] = health.free_port()
            if kept is not None:
                logger.warning("port %d is taken: %s moves to %d", kept, name, ports[name])
    return ports


def _start(config: StackConfig, memory: Memory, wanted: Iterable[Service]) -> Iterator[ServiceName]:
    """Start each of `wanted` that does not run as it should; yields the names of those."""
    running = processes.living(memory)
    for service in wanted:
        name = service.endpoint.name
        changed = supervisord.write_service(config.folder, service)
        if name in running and not changed:
            continue
        if name in running:
            logger.info("%s is started anew: what it is started with has changed", name)
        logger.info("starting %s (log: %s)", name, config.log(name))
        yield name
        processes.start(memory, name)


def _wait_until_well(config: StackConfig, memory: Memory, endpoint: Endpoint) -> None:
    first: dict[str, int] = {}

    def process() -> psutil.Process | None:
        found = processes.living(memory).get(endpoint.name)
        if found is not None:
            first.setdefault("pid", found.pid)
        return found

    def well() -> str | None:
        found = process()
        return "not running" if found is None else health.ask(endpoint, process=found)

    def alive() -> bool:
        # A second process id: it has ended once, and supervisord tries again.
        found = process()
        return found is not None and found.pid == first["pid"]

    complaint = health.wait_until(well, timeout_s=config.start_timeout_s, alive=alive)
    if complaint is not None:
        log = config.log(endpoint.name)
        raise StackError(f"{endpoint.name} does not get well ({complaint}): {_last_line(log)}; see {log}")


def _last_line(log: Path) -> str:
    """The last line of a log that says something, cut to 200 characters."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - 16_384))
            lines = handle.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return "its log is empty"
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "its log is empty")


def _undo(config: StackConfig, memory: Memory, started: Iterable[ServiceName], *, everything: bool) -> None:
    """Stop what a failed `up` had started: all of it, or the services it had added to a stack that was running."""
    try:
        if everything:
            processes.shut_down(memory)
        else:
            for name in started:
                processes.stop(memory, name)
    except (StackError, OSError) as error:
        logger.error("after the failure: %s; run `fasten down` (%s)", error, config.home)
