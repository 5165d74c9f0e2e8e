"""Images over HTTP, against real servers on loopback: one plays Label Studio, one a content host."""

import base64
import gzip
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ServiceError, ServiceUnavailable
from pipeline.images import Images
from pipeline.images.check import ImageConfig, ImageError
from pipeline.images.fetch import ImageFetcher
from tests.pipeline.images.image_server import Answer, ImageServer, picture, ref, serving


@pytest.fixture
def label_studio_host() -> Iterator[ImageServer]:
    with serving() as server:
        yield server


@pytest.fixture
def content_host() -> Iterator[ImageServer]:
    with serving() as server:
        yield server


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


@pytest.mark.parametrize("url", ["s3://bucket/a?b/ü~+??>.png", "gs://bucket/a.png", "azure-blob://container/a b.png"])
def test_a_cloud_address_is_asked_of_label_studio(url: str, label_studio_host: ImageServer, fetch: Any) -> None:
    encoded = base64.urlsafe_b64encode(url.encode()).decode().replace("=", "%3D")
    assert url.startswith("s3://") == bool({"-", "_"} & set(encoded)), "one of them tells the two alphabets apart"
    label_studio_host.give(f"/tasks/3/resolve/?fileuri={encoded}", b"bytes")
    assert fetch(url) == b"bytes"
    ((path, headers),) = label_studio_host.requests
    assert base64.urlsafe_b64decode(parse_qs(urlsplit(path).query)["fileuri"][0]).decode() == url
    assert headers["authorization"] == "Token secret"


def test_a_storage_that_fails_behind_label_studio_may_be_well_again(label_studio_host: ImageServer, fetch: Any) -> None:
    encoded = base64.urlsafe_b64encode(b"s3://bucket/ab.png").decode()  # without padding
    label_studio_host.answers[f"/tasks/3/resolve/?fileuri={encoded}"] = [(424, {}, b""), (200, {}, b"bytes")]
    assert fetch("s3://bucket/ab.png", retries=1) == b"bytes"


def test_a_cloud_address_that_label_studio_cannot_resolve_is_named(fetch: Any) -> None:
    with pytest.raises(ImageError, match=r"answered 404: /tasks/3/resolve/, for s3://bucket/a\.png"):
        fetch("s3://bucket/a.png")


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


def test_neither_token_nor_signature_is_logged(
    label_studio_host: ImageServer, content_host: ImageServer, fetch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    signed = content_host.give("/bucket/a.png?signature=hush", status=403)
    label_studio_host.redirect("/tasks/3/resolve/?fileuri=czM6", signed)
    with pytest.raises(ImageError) as caught:
        fetch("/tasks/3/resolve/?fileuri=czM6")
    told = f"{caught.value} {caplog.text}"
    assert "secret" not in told
    assert "hush" not in told


@given(st.text(max_size=60))
def test_a_password_in_an_address_is_never_repeated(tail: str) -> None:
    silent = httpx.MockTransport(lambda _: httpx.Response(404))
    base = "http://label-studio.example"
    with ImageFetcher(ImageConfig(), base_url=base, authorization=dict, transport=silent) as fetcher:
        for url in (f"http://me:hunter2@{tail}", f"//me:hunter2@{tail}", f"ftp://me:hunter2@[{tail}"):
            with pytest.raises(ImageError) as caught:
                fetcher.fetch(ref(url))
            assert "hunter2" not in str(caught.value)


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
        "/data/%252e%252e/api/projects",
        "/data/..%5c..%5capi/projects",
        "/data/..%255c../api/projects",
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


def test_a_host_that_trickles_headers_runs_out_of_time_too(content_host: ImageServer, fetch: Any) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(200):  # and no longer, should nobody hang up
            content_host.stopping.wait(0.02)
            handler.wfile.write(b"x")

    content_host.answers["/slow.png"] = trickle
    with pytest.raises(ServiceUnavailable, match="too slow"):
        fetch(content_host.url + "/slow.png", timeout_s=0.2, retries=0)


def test_all_redirects_together_have_one_deadline(content_host: ImageServer, fetch: Any) -> None:
    def later(handler: BaseHTTPRequestHandler) -> None:
        content_host.stopping.wait(0.15)
        handler.send_response(302)
        handler.send_header("Location", "/again.png")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    content_host.answers["/again.png"] = later
    with pytest.raises(ServiceUnavailable, match="too slow"):
        fetch(content_host.url + "/again.png", timeout_s=0.4, retries=0)
    assert len(content_host.requests) <= 3


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
    assert not any(image.passing for image in found.values() if isinstance(image, ImageError))
    assert isinstance(found["/data/good.png"], str)


def test_a_few_silent_hosts_are_bad_images(label_studio_host: ImageServer, tmp_path: Path) -> None:
    label_studio_host.give("/data/a.png", status=503)
    (found,) = resolved(label_studio_host, tmp_path, ["/data/a.png"]).values()
    assert isinstance(found, ImageError)
    assert found.reason == "image host does not answer"
    assert found.passing


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
