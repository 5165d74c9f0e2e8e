"""Asking services on loopback whether they are well, and waiting until they are."""

import random
import socket
import time
from collections.abc import Callable
from datetime import datetime

import httpx
import psutil

from pipeline.errors import StackError
from pipeline.stack.services import LOOPBACK, POOL, Endpoint

_CLIENT_TIMEOUT_S = 5.0


def free_port() -> int:
    """A loopback TCP port that nothing listens on now, below the range that outgoing connections are given."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port_is_free(port):
            return port
    raise StackError(f"no free port between 20000 and 32000 on {LOOPBACK}")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as listener:
        # As servers do: a port whose last connections are still timing out is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def wait_until(well: Callable[[], str | None], *, timeout_s: float, alive: Callable[[], bool]) -> str | None:
    """Ask `well` until it returns None; otherwise what it said last, after `timeout_s` or once `alive` is false."""
    deadline = time.monotonic() + timeout_s
    while (complaint := well()) is not None:
        if not alive() or time.monotonic() > deadline:
            return complaint
        time.sleep(0.1)
    return None


def ask(endpoint: Endpoint, *, process: psutil.Process | None = None) -> str | None:
    """None when the service answers that it is well, else what is wrong in a few words.

    With `process`, the answer must come from it or a child of it: Label Studio takes the next port, without a word,
    where its own is busy, and then a stranger would answer here.
    """
    try:
        # No proxy for loopback, whatever the environment says.
        with httpx.Client(trust_env=False, timeout=_CLIENT_TIMEOUT_S) as client:
            if endpoint.port is None:
                return _ask_worker(client, endpoint, process)
            response = client.get(endpoint.health)
    except httpx.HTTPError as error:
        return f"no answer ({type(error).__name__})"
    if response.status_code != httpx.codes.OK:
        return f"answers {response.status_code}"
    if process is not None and endpoint.port not in _listening_ports(process):
        return f"port {endpoint.port} is served by another process"
    return None


def _ask_worker(client: httpx.Client, endpoint: Endpoint, process: psutil.Process | None) -> str | None:
    """A worker listens nowhere: the server says whether it has been heard of since it was started."""
    response = client.post(endpoint.health, json={})
    if response.status_code != httpx.codes.OK:
        return f"its work pool is not there (Prefect answers {response.status_code})"
    started = 0.0 if process is None else process.create_time()
    for known in response.json():
        heard = datetime.fromisoformat(known["last_heartbeat_time"]).timestamp()
        if known["name"] == POOL and known["status"] == "ONLINE" and heard >= started:
            return None
    return "Prefect has not heard of it"


def _listening_ports(process: psutil.Process) -> set[int]:
    ports: set[int] = set()
    try:
        for member in (process, *process.children(recursive=True)):
            connections = member.net_connections("tcp")
            ports.update(c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN)
    except psutil.Error:
        return ports
    return ports
