"""The connections that images come through: bounded in time as a whole, and made to allowed addresses only.

httpx bounds each single read. A host that sends one header byte a second never breaks such a bound, and whether a name
leads to this machine is known only once it is resolved. Both are settled below HTTP, in httpcore's network backend.
"""

import math
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from pipeline.errors import ConfigError
from pipeline.images.addresses import kind_of, literal
from pipeline.images.check import ImageError

_due: ContextVar[float] = ContextVar("due", default=math.inf)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Everything that this thread does on the wire meanwhile ends within `seconds`, looking up names apart."""
    before = _due.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _due.reset(before)


class Wire(httpx.BaseTransport):
    """httpx's transport over such connections. One instance serves many threads; redirects are the caller's.

    `trusted(host, port)` says which places are the operator's own: their address is not looked at. Where the
    environment sets an HTTP proxy (and NO_PROXY does not except the host), the peer is that proxy, which is the
    operator's own too: it is the proxy that resolves the name, and the one to keep it from internal addresses.
    """

    def __init__(self, *, connections: int, trusted: Callable[[str, int], bool]) -> None:
        self._connections, self._trusted = connections, trusted
        self._proxies = {
            scheme: _proxy(address)
            for scheme in ("http", "https")
            if (address := urllib.request.getproxies().get(scheme) or urllib.request.getproxies().get("all"))
        }
        self._pools: dict[tuple[str, bool], httpcore.ConnectionPool] = {}
        self._lock, self._closed = threading.Lock(), False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, its body unread. Raises `httpx.TransportError`, and `ImageError` for a forbidden address."""
        url = request.url
        assert isinstance(request.stream, httpx.SyncByteStream)
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_transport_errors():
            answer = self._pool(url).handle_request(asked)
        assert isinstance(answer.stream, Iterable)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream), request=request)

    def close(self) -> None:
        with self._lock:
            pools, self._pools, self._closed = self._pools, {}, True
        for pool in pools.values():
            pool.close()

    def _pool(self, url: httpx.URL) -> httpcore.ConnectionPool:
        """The connections of one kind, made with the first use of it: images in a folder or a bucket need none."""
        address = literal(url.host)
        here = url.host == "localhost" or (address is not None and kind_of(address) == "loopback")
        direct = here or url.scheme not in self._proxies or bool(urllib.request.proxy_bypass(url.host))
        kind = url.scheme, direct
        with self._lock:
            if self._closed:
                raise httpcore.ConnectError("the connections for images are closed")
            if kind not in self._pools:
                self._pools[kind] = self._made(url.scheme, None if direct else self._proxies[url.scheme])
            return self._pools[kind]

    def _made(self, scheme: str, proxy: httpx.Proxy | None) -> httpcore.ConnectionPool:
        by_tls = proxy is not None and proxy.url.scheme == "https"
        # Some hundred certificates, which take 20 ms to read.
        tls = httpx.create_ssl_context() if scheme == "https" or by_tls else None
        if proxy is None:
            return httpcore.ConnectionPool(
                ssl_context=tls,
                max_connections=self._connections,
                keepalive_expiry=5.0,
                network_backend=_Network(self._trusted),
            )
        return httpcore.HTTPProxy(
            httpcore.URL(
                scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=proxy.url.raw_path
            ),
            proxy_auth=proxy.raw_auth,
            ssl_context=tls,
            proxy_ssl_context=tls if by_tls else None,
            max_connections=self._connections,
            keepalive_expiry=5.0,
            network_backend=_Network(lambda _host, _port: True),
        )


def _proxy(address: str) -> httpx.Proxy:
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError("the environment's proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) is no URL") from error
    if proxy.url.scheme not in ("http", "https"):
        raise ConfigError(f"the environment's proxy is a {proxy.url.scheme} one; images need an HTTP proxy, or none")
    return proxy


class _Network(httpcore.NetworkBackend):
    """Resolves, judges, and only then connects, to the very address that was judged."""

    def __init__(self, trusted: Callable[[str, int], bool]) -> None:
        self._trusted = trusted
        self._connector = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        problem: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in self._addresses(host, port):
            try:
                stream = self._connector.connect_tcp(address, port, _left(timeout), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
            else:
                return _Stream(stream)
        assert problem is not None
        raise problem

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = list(dict.fromkeys(str(where[4][0]) for where in found))
        if self._trusted(host, port):
            return addresses
        # Loopback is for those who name it: no other name, wherever it leads, gets an operator's own services.
        spelled = literal(host)
        local = host == "localhost" or (spelled is not None and kind_of(spelled) == "loopback")
        allowed = [each for each in addresses if (kind := kind_of(each)) is None or (local and kind == "loopback")]
        if not allowed:
            raise ImageError(
                "image host has an address that is not allowed", f"{host} is {addresses[0]}, {kind_of(addresses[0])}"
            )
        return allowed


class _Stream(httpcore.NetworkStream):
    """A stream whose every read and write ends by the time that `within` set."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Body(httpx.SyncByteStream):
    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        with _as_transport_errors():
            yield from self._blocks

    def close(self) -> None:
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


@contextmanager
def _as_transport_errors() -> Iterator[None]:
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        late = isinstance(error, httpcore.TimeoutException) and time.monotonic() >= _due.get()
        raise httpx.TransportError("too slow" if late else str(error) or type(error).__name__) from error


def _left(timeout: float | None) -> float | None:
    left = _due.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("too slow")
    return timeout if left == math.inf else left if timeout is None else min(timeout, left)
