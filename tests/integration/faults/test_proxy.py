"""The proxy does to requests what it says, and counts it."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from tests.integration.faults import proxy as toxics
from tests.integration.faults.proxy import FaultProxy, Rule, Weather

BODY = b"x" * 200_000


class Upstream(ThreadingHTTPServer):
    """Says what it heard; the real server is in front of the proxy in every other test."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heard: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_GET(self) -> None:
        self._answer(BODY)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        self.server.heard.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxied(upstream: Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{upstream.server_address[1]}") as running:
        yield running


@pytest.fixture
def client(proxied: FaultProxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxied.url, timeout=5) as opened:
        yield opened


def test_requests_and_answers_pass_unchanged(client: httpx.Client, proxied: FaultProxy) -> None:
    assert client.get("/a?b=c").content == BODY
    assert client.post("/d", content=BODY).content == BODY
    assert [(entry.method, entry.target) for entry in proxied.log] == [("GET", "/a?b=c"), ("POST", "/d")]
    assert not proxied.faults


def test_a_rule_chooses_by_method_path_and_number(client: httpx.Client, proxied: FaultProxy) -> None:
    with proxied.rule(Rule(toxic=toxics.status(429, retry_after=1), method="GET", path="^/a", nth=2, times=2)):
        codes = [client.get(path).status_code for path in ("/a", "/b", "/a", "/a", "/a")]
        assert client.post("/a").status_code == 200
        assert codes == [200, 200, 429, 429, 200]
        assert [entry.toxic for entry in proxied.faults] == ["429 with Retry-After"] * 2
        assert proxied.requests("GET", "^/a") == 4
    assert client.get("/a").status_code == 200


@pytest.mark.parametrize("toxic", [toxics.cut_before, toxics.cut_midway])
def test_a_cut_answer_is_an_error(toxic: toxics.Toxic, client: httpx.Client, proxied: FaultProxy) -> None:
    with proxied.rule(Rule(toxic=toxic)), pytest.raises(httpx.TransportError):
        client.get("/a")


def test_after_a_cut_before_the_server_has_heard_of_nothing_and_after_a_cut_after_of_all(
    client: httpx.Client, proxied: FaultProxy, upstream: Upstream
) -> None:
    for toxic in (toxics.cut_before, toxics.cut_after):
        with proxied.rule(Rule(toxic=toxic)), pytest.raises(httpx.TransportError):
            client.post(f"/{toxic.__name__}", content=b"1")
    assert upstream.heard == ["POST /cut_after"]


def test_silence_lasts_until_the_client_gives_up(client: httpx.Client, proxied: FaultProxy) -> None:
    with proxied.rule(Rule(toxic=toxics.silence)), pytest.raises(httpx.ReadTimeout):
        client.get("/a", timeout=0.1)


def test_a_late_request_reaches_the_server_when_its_client_has_gone(
    client: httpx.Client, proxied: FaultProxy, upstream: Upstream
) -> None:
    with proxied.rule(Rule(toxic=toxics.answered_late)), pytest.raises(httpx.ReadTimeout):
        client.post("/a", content=b"1", timeout=0.1)
    while "POST /a" not in upstream.heard:
        assert client.get("/b").status_code == 200


def test_a_drip_is_slow_and_whole(client: httpx.Client, proxied: FaultProxy) -> None:
    start = time.monotonic()
    with proxied.rule(Rule(toxic=toxics.drip(pieces=5, seconds=0.25))):
        assert client.get("/a").content == BODY
    assert time.monotonic() - start >= 0.25


def test_weather_is_the_same_for_the_same_seed(client: httpx.Client, proxied: FaultProxy) -> None:
    def codes() -> list[int]:
        with proxied.rule(Weather(toxics=[toxics.status(500), toxics.status(502)], share=0.5, seed=1)):
            return [client.get("/a").status_code for _ in range(12)]

    first = codes()
    assert {200, 500, 502} == set(first)
    assert codes() == first
