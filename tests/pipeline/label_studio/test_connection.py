"""Every way an answer can fail is one clear line of the right kind, without the token in it."""

import base64
import json
import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from pydantic import SecretStr

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.label_studio.connection import Connection, RefusedError

TOKEN = "0123456789abcdef0123456789abcdef01234567"
Handler = Callable[[httpx.Request], httpx.Response]


def connection(handler: Handler, token: str = TOKEN, attempts: int = 1) -> Connection:
    config = LabelStudioConfig(url="http://ls.test:8080/", token=SecretStr(token), read_attempts=attempts)
    return Connection(config, transport=httpx.MockTransport(handler))


def jwt(kind: str) -> str:
    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"token_type": kind, "exp": 4102444800}
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        (httpx.Response(200, text="[" * 100_000 + "]" * 100_000), ServiceError, "JSON that nests too deep"),
        (httpx.Response(401, json={"detail": "Invalid token."}), ServiceError, "set FASTEN_LABEL_STUDIO_TOKEN"),
        (httpx.Response(403, json={}), ServiceError, "did not accept the token"),
        (httpx.Response(404, json={"detail": "No Project."}), RefusedError, "(404: No Project.)"),
        (httpx.Response(400, json={"validation_errors": {"a": ["b\nc"]}}), RefusedError, "400"),
        (httpx.Response(502, text="<html>"), ServiceUnavailable, "502"),
        (httpx.Response(429, json={}), ServiceUnavailable, "429"),
        (httpx.Response(200, text="<html>login</html>"), ServiceError, "did not answer with JSON"),
        (httpx.Response(301, headers={"location": "https://ls.test/"}), ServiceError, "redirects to https://ls.test/"),
    ],
)
def test_refusals_are_one_clear_line(answer: httpx.Response, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind) as caught:
        connection(lambda _: answer).get("/api/x", what="looking")
    text = str(caught.value)
    assert expected in text
    assert "\n" not in text
    assert "http://ls.test:8080" in text
    assert TOKEN not in text


def packed(_: httpx.Request) -> httpx.Response:
    body = httpx.ByteStream(b"no gzip at all")
    return httpx.Response(201, headers={"content-encoding": "gzip"}, stream=body)


def test_an_answer_that_cannot_be_unpacked_is_as_good_as_lost() -> None:
    for call in (connection(packed).get, connection(packed).post):
        with pytest.raises(ServiceUnavailable, match=r"sent what cannot be unpacked while looking"):
            call("/api/x", what="looking")


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 31 Dec 9999 23:59:59 -1200"])
def test_a_clock_that_says_nothing_of_use_says_nothing(date: str) -> None:
    asked = connection(lambda _: httpx.Response(200, json={}, headers={"date": date}))
    asked.get("/api/x", what="looking")
    assert asked.server_time is None


def _a_project(door: LabelStudio) -> object:
    return door.find_project(7)


@pytest.mark.parametrize(
    ("token", "asked", "doing"),
    [
        (TOKEN, _a_project, "listing projects"),
        (TOKEN, LabelStudio.check, "asking its version"),
        (jwt("refresh"), LabelStudio.check, "exchanging the personal access token"),
    ],
)
def test_an_address_without_what_every_label_studio_has_is_asked_for_again(
    token: str, asked: Callable[[LabelStudio], object], doing: str
) -> None:
    config = LabelStudioConfig(url="http://ls.test/projects", token=SecretStr(token))
    nothing_here = httpx.MockTransport(lambda _: httpx.Response(404, json={}))
    way_out = rf"refused while {doing} \(404\); is FASTEN_LABEL_STUDIO_URL right\? It may have a path too many$"
    with LabelStudio(config, transport=nothing_here) as door, pytest.raises(ServiceError, match=way_out):
        asked(door)


def raising(error: Exception) -> Handler:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    return handler


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.ReadError("cut")])
def test_no_answer_may_come_later(error: Exception) -> None:
    with pytest.raises(ServiceUnavailable, match=r"http://ls\.test:8080"):
        connection(raising(error)).get("/api/x", what="looking")


class FailingTwice:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.method)
        return httpx.Response(503 if len(self.seen) < 3 else 200, json={"ok": True})


def test_reads_are_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    server = FailingTwice()
    assert connection(server, attempts=3).get("/api/x", what="looking") == {"ok": True}
    assert server.seen == ["GET"] * 3
    for record in caplog.records:
        assert re.fullmatch(r"Label Studio at .*; trying again in \d+\.\d s", record.getMessage())
    assert len(caplog.records) == 2


def test_writes_are_sent_once() -> None:
    server = FailingTwice()
    with pytest.raises(ServiceUnavailable):
        connection(server, attempts=3).post("/api/x", what="writing", json=[])
    assert server.seen == ["POST"]


def test_a_legacy_token_is_sent_as_it_is() -> None:
    assert connection(lambda _: httpx.Response(200, json={})).authorization() == {"Authorization": f"Token {TOKEN}"}


@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # in the SDK
def test_a_personal_access_token_is_exchanged_for_a_bearer_that_is_kept() -> None:
    refreshed: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            refreshed.append(json.loads(request.content)["refresh"])
            return httpx.Response(200, json={"access": jwt("access")})
        return httpx.Response(200, json={"sent": request.headers["authorization"]})

    connected = connection(handler, token=jwt("refresh"))
    assert connected.get("/api/x", what="looking")["sent"] == f"Bearer {jwt('access')}"
    assert set(refreshed) == {jwt("refresh")}
    before = len(refreshed)
    connected.get("/api/x", what="looking")
    assert len(refreshed) == before


@pytest.mark.parametrize("token", ["", "  ", "two words", "line\nbreak", "é"])
def test_a_token_that_cannot_be_sent_is_refused_unseen(token: str) -> None:
    with pytest.raises(ConfigError, match="FASTEN_LABEL_STUDIO_TOKEN") as caught:
        connection(lambda _: httpx.Response(200), token=token)
    assert token.strip() == "" or token not in str(caught.value)


@pytest.mark.parametrize("url", ["", "ls.test:8080", "ftp://ls.test", "http://"])
def test_an_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="FASTEN_LABEL_STUDIO_URL"):
        LabelStudioConfig(url=url, token=SecretStr(TOKEN))


def test_something_else_at_the_address_is_noticed() -> None:
    config = LabelStudioConfig(url="http://ls.test", token=SecretStr(TOKEN))
    door = LabelStudio(config, transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"version": "2"})))
    with pytest.raises(ServiceError, match="is not Label Studio"):
        door.check()


class Endless(httpx.SyncByteStream):
    """A body that never ends, and never pauses long enough for a time-out of its own."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b" "


def test_an_answer_that_never_ends_is_given_up_in_time() -> None:
    config = LabelStudioConfig(url="http://ls.test:8080/", token=SecretStr(TOKEN), timeout_s=0.05, read_attempts=1)
    endless = httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless()))
    with pytest.raises(ServiceUnavailable, match="did not answer in time"):
        Connection(config, transport=endless).get("/api/x", what="looking")


@pytest.mark.parametrize(("scheme", "expected"), [("http", "close"), ("https", "keep-alive")])
def test_label_studios_own_server_is_not_kept_waiting_for_an_acknowledgement(scheme: str, expected: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"said": request.headers["connection"]})

    config = LabelStudioConfig(url=f"{scheme}://ls.test", token=SecretStr(TOKEN))
    opened = Connection(config, transport=httpx.MockTransport(handler))
    assert opened.get("/", what="asking") == {"said": expected}
