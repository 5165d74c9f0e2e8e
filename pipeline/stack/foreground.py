"""One service by itself for as long as a block lasts, without supervisord: what tests and benchmarks run against."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StackError
from pipeline.stack import health
from pipeline.stack.services import Service

_STOPPING_S = 20.0


@contextmanager
def running(service: Service, *, log: Path, start_s: float = 120.0) -> Iterator[None]:
    """Run `service` until the block ends; `StackError` with the end of its log where it is not well in `start_s`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            service.command,
            env={**service.inherited, **service.environment},
            cwd=service.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        complaint = health.wait_until(
            lambda: health.ask(service.endpoint), timeout_s=start_s, alive=lambda: process.poll() is None
        )
        if complaint is not None:
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise StackError(f"{service.endpoint.name} did not start: {complaint}; its log ends {said!r}")
        yield
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process that was started here, by its id; by force where it does not listen."""
    process.terminate()
    try:
        process.wait(timeout=_STOPPING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
