"""Images over HTTP, against real servers on loopback: one plays Label Studio, one a content host."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.errors import ServiceError, ServiceUnavailable
from pipeline.images import Images
from pipeline.images.check import ImageConfig, ImageError
from pipeline.images.fetch import ImageFetcher
from pipeline.records import ImageRef

Answer = tuple[int, dict[str, str], bytes]


class ImageServer:
    """Answers by path; keeps what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer | list[Answer] | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def give(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        """Answer `path` so; the whole URL of it."""
        self.answers[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        return self.url + path

    def redirect(self, path: str, to: str) -> str:
        return self.give(path, status=302, Location=to)

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers, in lower case, of each request for `path`."""
        return [headers for where, headers in self.requests if where == path]


@contextmanager
def serving() -> Iterator[ImageServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            answer = server.answers.get(self.path, (404, {}, b"nothing here"))
            if callable(answer):
                answer(self)
                return
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            status, headers, body = answer
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # a client that hangs up early is what some tests are about
                self.close_connection = True

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = False
    server = ImageServer(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture
def label_studio_host() -> Iterator[ImageServer]:
    with serving() as server:
        yield server


@pytest.fixture
def content_host() -> Iterator[ImageServer]:
    with serving() as server:
        yield server


def ref(url: str) -> ImageRef:
    return ImageRef(url=url, task_id=3)


def picture(colour: int = 0) -> bytes:
    file = BytesIO()
    Image.new("L", (2, 2), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def fetch(label_studio_host: ImageServer, content_host: ImageServer) -> Iterator[Callable[..., bytes]]:
    """`fetch(url, **config)` with a token for Label Studio and the content host allowed."""
    with ExitStack() as opened:

        def fetch_once(url: str, **config: Any) -> bytes:
            values: dict[str, Any] = {"allowed_hosts": (content_host.host,), "retry_wait_s": 0.0} | config
            fetcher = ImageFetcher(
                ImageConfig(**values),
                base_url=label_studio_host.url,
                authorization=lambda: {"Authorization": "Token secret"},
            )
            return opened.enter_context(fetcher).fetch(ref(url))

        yield fetch_once


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_a_path_is_label_studios_and_carries_the_token(label_studio_host: ImageServer, fetch: Any) -> None:
    label_studio_host.give("/data/upload/1/a.png", b"bytes")
    assert fetch("/data/upload/1/a.png") == b"bytes"
    (headers,) = label_studio_host.asked("/data/upload/1/a.png")
    assert headers["authorization"] == "Token secret"
    assert headers["accept"] == "*/*", "Label Studio answers 406 to image/*"


def test_a_whole_url_of_label_studio_carries_the_token_too(label_studio_host: ImageServer, fetch: Any) -> None:
    url = label_studio_host.give("/data/upload/1/a.png", b"bytes")
    assert fetch(url) == b"bytes"
    assert label_studio_host.asked("/data/upload/1/a.png")[0]["authorization"] == "Token secret"


def test_an_allowed_host_never_sees_the_token(content_host: ImageServer, fetch: Any) -> None:
    assert fetch(content_host.give("/a.png", b"bytes")) == b"bytes"
    assert "authorization" not in content_host.asked("/a.png")[0]


def test_a_redirect_to_an_allowed_host_is_followed_without_the_token(
    label_studio_host: ImageServer, content_host: ImageServer, fetch: Any
) -> None:
    signed = content_host.give("/bucket/a.png?signature=1", b"bytes")
    label_studio_host.redirect("/tasks/3/resolve/?fileuri=czM6", signed)
    assert fetch("/tasks/3/resolve/?fileuri=czM6") == b"bytes"
    assert "authorization" not in content_host.asked("/bucket/a.png?signature=1")[0]
    assert "cookie" not in content_host.asked("/bucket/a.png?signature=1")[0]


def test_a_redirect_elsewhere_is_refused_and_not_asked(content_host: ImageServer, fetch: Any) -> None:
    with serving() as elsewhere:
        url = content_host.redirect("/a.png", elsewhere.give("/internal"))
        assert reason_of(lambda: fetch(url)) == "image host is not allowed"
        assert elsewhere.requests == []


def test_a_redirect_into_label_studios_api_is_refused(
    label_studio_host: ImageServer, content_host: ImageServer, fetch: Any
) -> None:
    url = content_host.redirect("/a.png", label_studio_host.url + "/api/projects/1/export")
    assert reason_of(lambda: fetch(url)) == "image URL is not an image's on Label Studio"
    assert label_studio_host.requests == []


def test_redirects_in_a_circle_end(content_host: ImageServer, fetch: Any) -> None:
    url = content_host.redirect("/a.png", "/a.png")
    assert reason_of(lambda: fetch(url)) == "image URL redirects too often"
    assert len(content_host.requests) <= 10


def test_a_redirect_to_another_scheme_is_refused(content_host: ImageServer, fetch: Any) -> None:
    url = content_host.redirect("/a.png", "file:///etc/passwd")
    assert reason_of(lambda: fetch(url)) == "image URL has a scheme that is not allowed"


def test_cookies_are_not_kept(content_host: ImageServer, fetch: Any) -> None:
    content_host.give("/b.png", b"bytes")
    url = content_host.give("/a.png", status=302, Location="/b.png", Set_Cookie="session=1; Path=/")
    assert fetch(url) == b"bytes"
    assert "cookie" not in content_host.asked("/b.png")[0]


@pytest.mark.parametrize(
    "path",
    [
        "/api/current-user/token",
        "/user/logout",
        "/data/../api/projects",
        "/data/%2e%2e/api/projects",
        "/data/upload/..%2f..%2f..%2fapi/projects",
        "/projects/1/export",
        "/",
    ],
)
def test_label_studio_is_asked_for_images_only(path: str, label_studio_host: ImageServer, fetch: Any) -> None:
    assert reason_of(lambda: fetch(path)) == "image URL is not an image's on Label Studio"
    assert label_studio_host.requests == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data", "image host is not allowed"),
        ("//169.254.169.254/latest/meta-data", "image URL has a scheme that is not allowed"),
        ("http://127.0.0.1:1/data/upload/1/a.png", "image host is not allowed"),
        ("file:///etc/passwd", "image URL has a scheme that is not allowed"),
        ("ftp://host/a.png", "image URL has a scheme that is not allowed"),
        ("a.png", "image URL has a scheme that is not allowed"),
        ("http://", "image host is not allowed"),
        ("http://[::1", "image URL is malformed"),
        ("http://a\nb/", "image URL is malformed"),
        ("http://\ud800/", "image URL is malformed"),
        ("http://x" + "y" * 70_000, "image URL is malformed"),
    ],
)
def test_nothing_else_is_asked_for(url: str, reason: str, fetch: Any) -> None:
    assert reason_of(lambda: fetch(url)) == reason


def test_a_host_is_no_longer_itself_with_a_password_or_another_port(content_host: ImageServer, fetch: Any) -> None:
    assert reason_of(lambda: fetch(f"http://me:pass@{content_host.host}/a.png")) == "image URL carries a password"
    assert reason_of(lambda: fetch("http://127.0.0.1/a.png")) == "image host is not allowed"
    assert reason_of(lambda: fetch(f"http://{content_host.host}@evil.example/a.png")) == "image URL carries a password"


def test_label_studio_below_a_path_is_asked_below_it(label_studio_host: ImageServer) -> None:
    label_studio_host.give("/studio/data/upload/1/a.png", b"bytes")
    config, base = ImageConfig(), label_studio_host.url + "/studio/"
    with ImageFetcher(config, base_url=base, authorization=dict) as fetcher:
        assert fetcher.fetch(ref("/data/upload/1/a.png")) == b"bytes"
        assert fetcher.fetch(ref("/studio/data/upload/1/a.png")) == b"bytes"
        assert reason_of(lambda: fetcher.fetch(ref(label_studio_host.url + "/data/upload/1/a.png"))) == (
            "image URL is not an image's on Label Studio"
        )


def test_a_missing_image_is_said_so_and_not_asked_for_again(label_studio_host: ImageServer, fetch: Any) -> None:
    assert reason_of(lambda: fetch("/data/upload/1/gone.png")) == "image host answered 404"
    assert len(label_studio_host.requests) == 1


def test_what_may_pass_is_tried_again(label_studio_host: ImageServer, fetch: Any) -> None:
    busy: Answer = (503, {}, b"")
    label_studio_host.answers["/data/upload/1/a.png"] = [busy, (429, {}, b""), (500, {}, b""), (200, {}, b"bytes")]
    assert fetch("/data/upload/1/a.png", retries=3) == b"bytes"
    label_studio_host.answers["/data/upload/1/a.png"] = [busy, busy, (200, {}, b"bytes")]
    with pytest.raises(ServiceUnavailable, match="answered 503"):
        fetch("/data/upload/1/a.png", retries=1)


def test_a_refused_token_is_no_fault_of_the_image(label_studio_host: ImageServer, fetch: Any) -> None:
    label_studio_host.give("/data/upload/1/a.png", status=401)
    with pytest.raises(ServiceError, match="FASTEN_LABEL_STUDIO_TOKEN") as caught:
        fetch("/data/upload/1/a.png")
    assert "secret" not in str(caught.value)


def test_an_announced_size_beyond_the_limit_is_not_read(content_host: ImageServer, fetch: Any) -> None:
    url = content_host.give("/a.png", bytes(1001))
    assert reason_of(lambda: fetch(url, max_bytes=1000)) == "image has too many bytes"
    assert len(fetch(content_host.give("/b.png", bytes(1000)), max_bytes=1000)) == 1000


def test_endless_bytes_without_a_size_are_cut_off(content_host: ImageServer, fetch: Any) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not content_host.stopping.is_set():
            handler.wfile.write(bytes(65536))

    content_host.answers["/endless.png"] = endless
    assert reason_of(lambda: fetch(content_host.url + "/endless.png", max_bytes=10**6)) == "image has too many bytes"


def test_compressed_answers_are_refused_rather_than_unpacked(content_host: ImageServer, fetch: Any) -> None:
    url = content_host.give("/a.png", gzip.compress(bytes(10**7)), Content_Encoding="gzip")
    assert reason_of(lambda: fetch(url)) == "image is sent compressed"
    assert content_host.asked("/a.png")[0]["accept-encoding"] == "identity"


def test_a_host_that_trickles_runs_out_of_time(content_host: ImageServer, fetch: Any) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not content_host.stopping.wait(0.02):
            handler.wfile.write(b"x")

    content_host.answers["/slow.png"] = trickle
    with pytest.raises(ServiceUnavailable, match="too slow"):
        fetch(content_host.url + "/slow.png", timeout_s=0.2, retries=0)


def test_a_connection_cut_short_is_tried_again(content_host: ImageServer, fetch: Any) -> None:
    content_host.answers["/a.png"] = [(200, {"Content-Length": "10"}, b"short"), (200, {}, b"bytes")]
    content_host.answers["/a.png"][0][1]["Connection"] = "close"  # type: ignore[index]
    assert fetch(content_host.url + "/a.png", retries=1) == b"bytes"


# Many images at once -----------------------------------------------------------------------------------------------


def resolved(host: ImageServer, root: Path, urls: list[str], **config: Any) -> dict[str, str | ImageError]:
    values: dict[str, Any] = {"retry_wait_s": 0.0, "retries": 0, "concurrency": 3} | config
    with Images(ImageConfig(**values), root=root, base_url=host.url, authorization=dict) as images:
        return dict(images.resolve(map(ref, urls)))


def test_every_url_is_resolved_and_each_is_fetched_once_ever(label_studio_host: ImageServer, tmp_path: Path) -> None:
    paths = [f"/data/upload/1/{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        label_studio_host.give(path, picture(number // 2))
    first = resolved(label_studio_host, tmp_path, paths)
    assert set(first) == set(paths)
    assert len(set(first.values())) == 20
    assert len(label_studio_host.requests) == 40
    assert resolved(label_studio_host, tmp_path, paths) == first
    assert len(label_studio_host.requests) == 40


def test_bad_images_are_reported_among_the_good(label_studio_host: ImageServer, tmp_path: Path) -> None:
    label_studio_host.give("/data/good.png", picture())
    label_studio_host.give("/data/text.png", b"no image")
    found = resolved(label_studio_host, tmp_path, ["/data/good.png", "/data/text.png", "/data/gone.png"])
    reasons = {url: image.reason for url, image in found.items() if isinstance(image, ImageError)}
    assert reasons == {"/data/text.png": "image does not decode", "/data/gone.png": "image host answered 404"}
    assert isinstance(found["/data/good.png"], str)


def test_a_few_silent_hosts_are_bad_images(label_studio_host: ImageServer, tmp_path: Path) -> None:
    label_studio_host.give("/data/a.png", status=503)
    (found,) = resolved(label_studio_host, tmp_path, ["/data/a.png"]).values()
    assert isinstance(found, ImageError)
    assert found.reason == "image host does not answer"


def test_images_that_their_server_fails_over_are_bad_images_however_many(
    label_studio_host: ImageServer, tmp_path: Path
) -> None:
    broken = [f"/data/upload/1/{number}.png" for number in range(30)]
    for path in broken:
        label_studio_host.give(path, status=500)
    found = resolved(label_studio_host, tmp_path, broken)
    assert {image.reason for image in found.values() if isinstance(image, ImageError)} == {"image host answered 500"}
    assert len(found) == 30


def test_an_outage_ends_the_pull_and_keeps_what_was_fetched(label_studio_host: ImageServer, tmp_path: Path) -> None:
    label_studio_host.give("/data/good.png", picture())
    broken = [f"/data/{number}.png" for number in range(30)]
    for path in broken:
        label_studio_host.give(path, status=503)
    with pytest.raises(ServiceUnavailable, match="10 images in a row"):
        resolved(label_studio_host, tmp_path, ["/data/good.png", *broken], concurrency=1)
    label_studio_host.answers.clear()
    assert isinstance(resolved(label_studio_host, tmp_path, ["/data/good.png"])["/data/good.png"], str)


def test_the_same_path_on_another_server_is_another_image(
    label_studio_host: ImageServer, content_host: ImageServer, tmp_path: Path
) -> None:
    label_studio_host.give("/data/a.png", picture(1))
    content_host.give("/data/a.png", picture(2))
    first = resolved(label_studio_host, tmp_path, ["/data/a.png"])
    assert resolved(content_host, tmp_path, ["/data/a.png"]) != first
