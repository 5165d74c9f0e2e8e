"""How each service of the embedded stack is, now."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pipeline.stack import health, processes, services, supervisord
from pipeline.stack.services import ServiceName
from pipeline.stack.state import StackConfig, load_memory


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStatus:
    """One service of the embedded stack, as it is now."""

    name: ServiceName
    url: str
    """Empty where it has never been started."""
    pid: int | None
    healthy: bool
    detail: str
    """`well`, or what is wrong in a few words."""
    log: Path


def status(config: StackConfig, *, external: frozenset[str] | None = None) -> list[ServiceStatus]:
    """What each service of the stack is doing; those that are `external` are left out, unless they still run here.

    Without `external`, those that were when `up` was last called; all of them where it never was.
    """
    memory = load_memory(config)
    if memory is None:
        return [_never_started(config, name) for name in services.wanted(external or frozenset())]
    running = processes.living(memory)
    absent = "not running"
    if not running and supervisord.members(memory.stack_id):
        absent = "without its supervisord: `fasten up` or `fasten down` clears that"
    wanted = memory.services if external is None else services.wanted(external)
    found = []
    for name in get_args(ServiceName):
        process = running.get(name)
        if name not in wanted and process is None:
            continue
        if ("prefect" if name == "worker" else name) not in memory.ports:
            found.append(_never_started(config, name))
            continue
        endpoint = services.endpoint(name, memory.ports)
        complaint = absent if process is None else health.ask(endpoint, process=process)
        found.append(
            ServiceStatus(
                name=name,
                url=endpoint.url,
                pid=None if process is None else process.pid,
                healthy=complaint is None,
                detail=complaint or "well",
                log=config.log(name),
            )
        )
    return found


def _never_started(config: StackConfig, name: ServiceName) -> ServiceStatus:
    return ServiceStatus(name=name, url="", pid=None, healthy=False, detail="never started", log=config.log(name))
