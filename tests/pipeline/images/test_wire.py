"""No name, wherever it leads, gets a byte out to an address that is not allowed."""

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from pipeline.errors import ConfigError, ServiceUnavailable
from pipeline.images.check import ImageConfig, ImageError
from pipeline.images.fetch import ImageFetcher
from tests.pipeline.images.image_server import ImageServer, ref, serving

Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """`resolve(name, *addresses)`: from now on, that is what the system's resolver says."""
    known: dict[str, tuple[str, ...]] = {}
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host not in known:
            return ask(host, port, *arguments, **options)
        return [place for address in known[host] for place in ask(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)

    def say(name: str, *addresses: str) -> None:
        known[name] = addresses

    return say


@pytest.fixture
def host() -> Iterator[ImageServer]:
    with serving() as server:
        server.give("/a.png", b"bytes")
        yield server


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who listens and was never connected to, as `accept` shows: it does not wait."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.setblocking(False)
        yield opened


def fetch(url: str, *allowed: str, base_url: str = "http://label-studio.example", **config: Any) -> bytes:
    settings = ImageConfig(allowed_hosts=allowed, retries=0, **config)
    with ImageFetcher(settings, base_url=base_url, authorization=dict) as fetcher:
        return fetcher.fetch(ref(url))


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_name_that_leads_here_is_not_even_connected_to(
    address: str, resolve: Resolve, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    resolve("images.example", address)
    with pytest.raises(ImageError) as caught:
        fetch(f"http://images.example:{port}/a.png", f"images.example:{port}")
    assert caught.value.reason == "image host has an address that is not allowed"
    assert not caught.value.passing
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_redirect_to_such_a_name_is_not_connected_to(
    resolve: Resolve, listener: socket.socket, host: ImageServer
) -> None:
    port = listener.getsockname()[1]
    resolve("images.example", "127.0.0.1")
    url = host.redirect("/elsewhere.png", f"http://images.example:{port}/a.png")
    with pytest.raises(ImageError, match="address that is not allowed"):
        fetch(url, host.host, f"images.example:{port}")
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_name_is_asked_once_and_what_it_said_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["192.0.2.1", "127.0.0.1"])
    connected = []

    def rebound(_: str, port: int, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ServiceUnavailable, match="nobody there"):
        fetch("http://images.example/a.png", "images.example")
    assert connected == [("192.0.2.1", 80)]


def test_of_several_addresses_only_the_allowed_are_tried(resolve: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    connected = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError("nobody there")

    resolve("images.example", "169.254.169.254", "192.0.2.1", "192.0.2.2", "127.0.0.1")
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ServiceUnavailable):
        fetch("http://images.example/a.png", "images.example")
    assert connected == ["192.0.2.1", "192.0.2.2"]


def test_loopback_is_reached_by_its_own_name_and_by_label_studios(resolve: Resolve, host: ImageServer) -> None:
    port = host.host.partition(":")[2]
    assert fetch(f"http://localhost:{port}/a.png", f"localhost:{port}") == b"bytes"
    assert fetch(host.url + "/a.png", host.host) == b"bytes"
    resolve("label-studio.example", "127.0.0.1")
    host.give("/data/upload/a.png", b"bytes")
    assert fetch("/data/upload/a.png", base_url=f"http://label-studio.example:{port}") == b"bytes"


def test_certificates_are_read_only_where_something_is_encrypted(
    host: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    make = httpx.create_ssl_context

    def read() -> ssl.SSLContext:
        asked.append("certificates")
        return make()

    monkeypatch.setattr(httpx, "create_ssl_context", read)
    assert fetch(host.url + "/a.png", host.host) == b"bytes"
    assert not asked
    with pytest.raises(ServiceUnavailable):  # it speaks no TLS
        fetch(host.url.replace("http:", "https:") + "/a.png", host.host)
    assert asked == ["certificates"]


def test_a_name_that_nobody_knows_is_no_answer() -> None:
    with pytest.raises(ServiceUnavailable, match=r"nobody\.invalid does not answer"):
        fetch("http://nobody.invalid/a.png", "nobody.invalid")


def test_a_host_that_never_accepts_runs_out_of_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        place = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(place)
        with pytest.raises(ServiceUnavailable, match=r"too slow|timed out"):
            fetch(f"http://127.0.0.1:{place[1]}/a.png", f"127.0.0.1:{place[1]}", timeout_s=0.2)
        for one in waiting:
            one.close()


def test_through_a_proxy_it_is_the_proxy_that_resolves(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch, host: ImageServer
) -> None:
    monkeypatch.setenv("HTTP_PROXY", host.url)
    host.give("http://images.example/a.png", b"through the proxy")
    assert fetch("http://images.example/a.png", "images.example") == b"through the proxy"
    # What the environment excepts is direct again, and judged.
    monkeypatch.setenv("NO_PROXY", "images.example")
    resolve("images.example", "127.0.0.1")
    with pytest.raises(ImageError, match="address that is not allowed"):
        fetch("http://images.example/a.png", "images.example")
    # So is this machine itself.
    assert fetch(host.url + "/a.png", host.host) == b"bytes"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_one_line(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="the environment's proxy"):
        fetch("http://images.example/a.png", "images.example")
