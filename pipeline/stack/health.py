"""Asking services on loopback whether they are well, and waiting until they are."""

import socket
import time
from collections.abc import Callable

import httpx

from pipeline.stack.services import LOOPBACK, Service

_CLIENT_TIMEOUT_S = 5.0


def free_port() -> int:
    """A loopback TCP port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


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


def ask(service: Service) -> str | None:
    """None when the service answers that it is well, else what is wrong in a few words."""
    try:
        # No proxy for loopback, whatever the environment says.
        with httpx.Client(trust_env=False, timeout=_CLIENT_TIMEOUT_S) as client:
            response = client.get(service.health)
    except httpx.HTTPError as error:
        return f"no answer ({type(error).__name__})"
    return None if response.status_code == httpx.codes.OK else f"answers {response.status_code}"
