"""A proxy in front of a real Label Studio that does to chosen requests what networks and tired servers do.

Every request is read whole, matched against the rules in order, and passed on unless the toxic of its rule says
otherwise. What was done is in `log`, one entry a request, so that a test can tell that its fault did happen and count
what was asked for.
"""

import random
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
_BLOCK = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request as it came in, and as it is passed on."""

    method: str
    target: str
    """Path and query."""
    raw: bytes


class Exchange:
    """What a toxic may do with one request."""

    def __init__(
        self, request: Request, client: socket.socket, upstream: tuple[str, int], stop: threading.Event
    ) -> None:
        self.request = request
        self.stop = stop
        self._client = client
        self._upstream = upstream

    def ask(self) -> bytes:
        """The server's whole answer; as much as came, where it died over it."""
        answer = bytearray()
        try:
            with socket.create_connection(self._upstream, timeout=60) as server:
                server.sendall(self.request.raw)
                while block := server.recv(_BLOCK):
                    answer += block
        except OSError:
            pass
        return _closing(bytes(answer))

    def send(self, answer: bytes) -> None:
        self._client.sendall(answer)

    def reset(self) -> None:
        """End the connection the hard way: the client sees a reset instead of an end."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def client_left(self) -> None:
        """Wait until the client has given up, or the proxy stops."""
        self._client.settimeout(0.1)
        while not self.stop.is_set():
            try:
                if not self._client.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return


Toxic = Callable[[Exchange], None]
"""Answers a request, or sees to it that nobody does."""


def passed_on(exchange: Exchange) -> None:
    """What happens without a toxic."""
    exchange.send(exchange.ask())


def status(code: int, *, retry_after: int | None = None) -> Toxic:
    """An answer of that status; the server hears nothing of the request."""
    wait = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    body = b'{"detail": "the proxy says so"}'
    head = f"HTTP/1.1 {code} Fault\r\nContent-Type: application/json\r\n{wait}Content-Length: {len(body)}\r\n"

    def toxic(exchange: Exchange) -> None:
        exchange.send(head.encode() + b"Connection: close\r\n\r\n" + body)

    toxic.__name__ = str(code) + ("" if retry_after is None else " with Retry-After")
    return toxic


def silence(exchange: Exchange) -> None:
    """Accepted, and never answered."""
    exchange.client_left()


def cut_before(exchange: Exchange) -> None:
    """The connection is reset before the server has heard of the request."""
    exchange.reset()


def cut_after(exchange: Exchange) -> None:
    """The server does what it is asked to, and its answer is lost."""
    exchange.ask()
    exchange.reset()


def cut_midway(exchange: Exchange) -> None:
    """The answer stops half-way."""
    answer = exchange.ask()
    exchange.send(answer[: len(answer) // 2])
    exchange.reset()


def answered_late(exchange: Exchange) -> None:
    """The server hears of the request only once the client has given up on it."""
    exchange.client_left()
    exchange.ask()


def drip(*, pieces: int, seconds: float) -> Toxic:
    """The answer comes in that many pieces, in at least that time."""

    def toxic(exchange: Exchange) -> None:
        answer = exchange.ask()
        size = max(1, -(-len(answer) // pieces))
        for start in range(0, len(answer), size):
            if exchange.stop.wait(seconds / pieces):
                return
            exchange.send(answer[start : start + size])

    toxic.__name__ = "slow drip"
    return toxic


def drip_for_ever(exchange: Exchange) -> None:
    """A server that never stops answering, a byte at a time."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
    while not exchange.stop.wait(0.05):
        exchange.send(b" ")


def late(seconds: float) -> Toxic:
    """Everything takes so much longer."""

    def toxic(exchange: Exchange) -> None:
        exchange.stop.wait(seconds)
        passed_on(exchange)

    toxic.__name__ = "latency"
    return toxic


def meanwhile(act: Callable[[], Any], *, then: Toxic = passed_on) -> Toxic:
    """Something happens when the request comes, such as the end of the server."""

    def toxic(exchange: Exchange) -> None:
        act()
        then(exchange)

    toxic.__name__ = getattr(act, "__name__", "act")
    return toxic


def killed_over_it(kill: Callable[[], Any]) -> Toxic:
    """The request reaches the server, which dies over it."""

    def toxic(exchange: Exchange) -> None:
        asking = threading.Thread(target=exchange.ask, daemon=True)
        asking.start()
        asking.join(0.02)  # long enough to be read, too short for most answers
        kill()
        asking.join()
        exchange.reset()

    toxic.__name__ = "killed over it"
    return toxic


@dataclass(kw_only=True)
class Rule:
    """Which requests get the toxic: the `nth` that matches (from 1) and as many after it as `times` says."""

    toxic: Toxic
    method: str = ""
    """Empty: any."""
    path: str = ""
    """A regular expression that is searched for in path and query."""
    nth: int = 1
    times: int = 1
    seen: int = field(default=0, init=False)

    def applies(self, request: Request) -> bool:
        if (self.method and request.method != self.method) or not re.search(self.path, request.target):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass(kw_only=True)
class Weather:
    """A rule for bad weather: each request gets one of the toxics with that probability, by seed."""

    toxics: Sequence[Toxic]
    share: float
    seed: int

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @property
    def toxic(self) -> Toxic:
        return self._random.choice(self.toxics)

    def applies(self, request: Request) -> bool:
        del request
        return self._random.random() < self.share


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One request, and the toxic's name where it got one."""

    method: str
    target: str
    toxic: str


class FaultProxy:
    """Listens on a loopback port of its own. Thread-safe; rules may be changed at any time."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or LOOPBACK, parts.port or 80)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server = _Server((LOOPBACK, 0), self)
        self.rules: list[Rule | Weather] = []
        self.log: list[Entry] = []

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    @property
    def faults(self) -> list[Entry]:
        """The requests that got a toxic."""
        return [entry for entry in self.log if entry.toxic]

    def requests(self, method: str = "", path: str = "") -> int:
        """How many such requests there were."""
        return sum(method in ("", entry.method) and bool(re.search(path, entry.target)) for entry in self.log)

    @contextmanager
    def rule(self, *rules: Rule | Weather) -> Iterator[None]:
        """These rules, and an empty log to begin with, until the block ends."""
        self.log = []
        self.rules = list(rules)
        try:
            yield
        finally:
            self.rules = []

    def handle(self, request: Request, client: socket.socket) -> None:
        """Called by each connection's thread with its one request."""
        with self._lock:
            # Every rule counts what it sees, also where another one comes first.
            applying = [rule for rule in self.rules if rule.applies(request)]
            toxic = applying[0].toxic if applying else passed_on
            name = "" if toxic is passed_on else toxic.__name__
            self.log.append(Entry(method=request.method, target=request.target, toxic=name))
        toxic(Exchange(request, client, self._upstream, self._stop))

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], proxy: FaultProxy) -> None:
        super().__init__(address, _Connection)
        self.proxy = proxy


class _Connection(socketserver.BaseRequestHandler):
    """One connection, one request: neither side is told that it may send another."""

    server: _Server

    def handle(self) -> None:
        try:
            request = _read_request(self.request)
            if request is not None:
                self.server.proxy.handle(request, self.request)
        except OSError:  # either side left: that is the point of it all
            pass


def _closing(answer: bytes) -> bytes:
    """The answer with word that no other will come over this connection: else the client's next request may be lost."""
    status, line, rest = answer.partition(b"\r\n")
    head, end, body = rest.partition(b"\r\n\r\n")
    kept = [each for each in head.split(b"\r\n") if not each.lower().startswith(b"connection:")]
    return b"\r\n".join([status, *kept, b"Connection: close"]) + end + body if line and end else answer


def _read_request(client: socket.socket) -> Request | None:
    data = bytearray()
    while b"\r\n\r\n" not in data:
        block = client.recv(_BLOCK)
        if not block:
            return None
        data += block
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    rest = bytearray(body)
    if "content-length" in headers:
        while len(rest) < int(headers["content-length"]) and (block := client.recv(_BLOCK)):
            rest += block
    elif headers.get("transfer-encoding") == "chunked":
        while not rest.endswith(b"0\r\n\r\n") and (block := client.recv(_BLOCK)):
            rest += block
    kept = [line for line in lines if not line.lower().startswith(("connection:", "expect:"))]
    raw = "\r\n".join([*kept, "Connection: close"]).encode("latin-1") + b"\r\n\r\n" + bytes(rest)
    return Request(method=method, target=target, raw=raw)
