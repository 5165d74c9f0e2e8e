"""Images that need no network: `data:` URIs, and local files below a root that no path leaves."""

import base64
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, ServiceUnavailable
from pipeline.images.bucket import Buckets
from pipeline.images.check import ImageConfig, ImageError
from pipeline.images.fetch import ImageFetcher
from pipeline.s3 import S3Config
from tests.pipeline.images.image_server import ref

BASE = "http://label-studio.example:8080"


def refuse(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"nothing may be asked for, and {request.url} was")


def fetcher(**config: Any) -> ImageFetcher:
    return ImageFetcher(ImageConfig(**config), base_url=BASE, authorization=dict, transport=httpx.MockTransport(refuse))


@pytest.fixture(scope="module")
def offline() -> Iterator[ImageFetcher]:
    with fetcher(max_bytes=1000, retries=0) as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "set one").mkdir(parents=True)
    (folder / "set one" / "a.png").write_bytes(b"bytes")
    (tmp_path / "outside.png").write_bytes(b"private")
    return folder


@given(st.binary(max_size=500))
def test_data_uris_give_their_bytes(offline: ImageFetcher, body: bytes) -> None:
    encoded = base64.b64encode(body).decode()
    assert offline.fetch(ref(f"data:image/png;base64,{encoded}")) == body
    assert offline.fetch(ref(f"DATA:image/png;charset=x;BASE64,{quote(encoded)}")) == body
    assert offline.fetch(ref(f"data:image/png,{quote(body)}")) == body


@pytest.mark.parametrize("url", ["data:image/png;base64", "data:;base64,%%%", "data:;base64,abc", "data:;base64,é==="])
def test_broken_data_uris_are_image_errors(offline: ImageFetcher, url: str) -> None:
    with pytest.raises(ImageError):
        offline.fetch(ref(url))


def test_a_long_data_uri_is_refused_before_it_is_decoded(offline: ImageFetcher) -> None:
    with pytest.raises(ImageError) as caught:
        offline.fetch(ref("data:image/png;base64," + "A" * 10_000))
    assert caught.value.reason == "image has too many bytes"
    assert len(str(caught.value)) < 200


def test_local_files_are_read_from_disk(root: Path) -> None:
    with fetcher(local_files_root=root) as local:
        assert local.fetch(ref("/data/local-files/?d=set%20one/a.png")) == b"bytes"
        assert local.fetch(ref(f"{BASE}/data/local-files/?d=/set+one/a.png")) == b"bytes"


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "set%20one/../../outside.png",
        "..%2foutside.png",
        "/../outside.png",
        "%2e%2e/outside.png",
        "set+one/..//../outside.png",
        "a.png&d=../outside.png",
    ],
)
def test_no_path_leaves_the_root(root: Path, name: str) -> None:
    with fetcher(local_files_root=root) as local, pytest.raises(ImageError) as caught:
        local.fetch(ref(f"/data/local-files/?d={name}"))
    assert caught.value.reason == "image lies outside the local files"


@pytest.mark.parametrize(
    "name",
    [
        "%252e%252e/outside.png",
        "..%5coutside.png",
        "..%255coutside.png",
        "..%00/outside.png",
        "%c0%ae%c0%ae/outside.png",
        "{absolute}",
        "/{absolute}",
        "file:{absolute}",
        "file://{absolute}",
        "..%3foutside.png",
        "...//outside.png",
    ],
)
def test_no_spelling_of_a_way_out_is_one(root: Path, name: str) -> None:
    absolute = root.parent / "outside.png"
    with fetcher(local_files_root=root) as local, pytest.raises(ImageError) as caught:
        local.fetch(ref(f"/data/local-files/?d={name.format(absolute=absolute)}"))
    assert caught.value.reason == "image file cannot be read"


@settings(deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "", "set one", "a.png", "folder", "outside.png", "%2e%2e", "\\..", "\0"])
    )
)
def test_no_path_at_all_gives_what_is_outside(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    base = tmp_path_factory.getbasetemp() / "outside"
    root = base / "files"
    if not root.exists():
        (root / "set one").mkdir(parents=True)
        (root / "set one" / "a.png").write_bytes(b"bytes")
        (base / "outside.png").write_bytes(b"private")
        (root / "folder").symlink_to(base, target_is_directory=True)
        (root / "set one" / "folder").symlink_to(root / "set one", target_is_directory=True)
    with fetcher(local_files_root=root) as local:
        for name in ("/".join(parts), quote("/".join(parts)), quote(quote("/".join(parts)))):
            try:
                assert local.fetch(ref(f"/data/local-files/?d={name}")) == b"bytes"
            except ImageError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_a_folder_swapped_for_a_link_meanwhile_leads_nowhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "a.png").write_bytes(b"private")
    (root / "link").symlink_to(root / "set one", target_is_directory=True)
    resolve = Path.resolve

    def swapped(path: Path, strict: bool = False) -> Path:
        found = resolve(path, strict=strict)
        if path.name == "a.png":
            (root / "set one").rename(root / "away")
            (root / "set one").symlink_to(root.parent, target_is_directory=True)
        return found

    with fetcher(local_files_root=root) as local:
        monkeypatch.setattr(Path, "resolve", swapped)
        with pytest.raises(ImageError, match="cannot be read"):
            local.fetch(ref("/data/local-files/?d=link/a.png"))


def test_no_link_leaves_the_root(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "outside.png")
    (root / "folder").symlink_to(root.parent, target_is_directory=True)
    (root / "inside.png").symlink_to(root / "set one" / "a.png")
    with fetcher(local_files_root=root) as local:
        for name in ("link.png", "folder/outside.png"):
            with pytest.raises(ImageError, match="outside the local files"):
                local.fetch(ref(f"/data/local-files/?d={name}"))
        assert local.fetch(ref("/data/local-files/?d=inside.png")) == b"bytes"
        (root / "two").symlink_to(root / "set one", target_is_directory=True)
        assert local.fetch(ref("/data/local-files/?d=two/a.png")) == b"bytes"


def test_what_is_no_readable_file_is_an_image_error(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    (root / "circle.png").symlink_to("circle.png")
    with fetcher(local_files_root=root, max_bytes=4) as local:
        for name in ("pipe.png", "circle.png", "gone.png", "set%20one", "", "a%00b", "x" * 5000, "set%20one/a.png"):
            with pytest.raises(ImageError) as caught:
                local.fetch(ref(f"/data/local-files/?d={name}"))
            assert "\n" not in str(caught.value)


def test_label_studios_url_must_be_one() -> None:
    for url in ("", "localhost:8080", "ftp://host/"):
        with pytest.raises(ConfigError, match="FASTEN_LABEL_STUDIO_URL"):
            ImageFetcher(ImageConfig(), base_url=url, authorization=dict)


# Buckets, without one: what is refused before anybody is asked ----------------------------------------------------


@pytest.mark.parametrize(
    ("url", "covered"),
    [
        ("s3://ours/a.png", True),
        ("S3://ours/deep/a.png", True),
        ("s3://shared/mine/a.png", True),
        ("s3://shared/mine/../theirs/a.png", True),
        ("s3://shared/mine", False),
        ("s3://shared/mineral/a.png", False),
        ("s3://shared/a.png", False),
        ("s3://oursnot/a.png", False),
        ("s3://ours", False),
        ("s3:/ours/a.png", False),
        ("gs://ours/a.png", False),
    ],
)
def test_a_bucket_is_covered_by_its_whole_name_and_prefix(url: str, covered: bool) -> None:
    assert Buckets(ImageConfig(allowed_buckets=("ours", "shared/mine"))).covers(url) is covered


@pytest.mark.parametrize(
    "key", ["../other/a.png", "a/../../other/a.png", "./a.png", "a//b.png", "", "a/", "a\nb", "a\0b"]
)
def test_no_key_leaves_its_bucket_or_is_asked_for_in_two_ways(key: str) -> None:
    with fetcher(allowed_buckets=("ours",), s3=S3Config(endpoint="http://127.0.0.1:9", region="x")) as fetched:
        with pytest.raises(ImageError) as caught:
            fetched.fetch(ref(f"s3://ours/{key}"))
        assert caught.value.reason == "image URL is malformed"
        assert "\n" not in str(caught.value)


def test_a_store_that_is_away_is_a_service_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    config = {"allowed_buckets": ("ours",), "s3": S3Config(endpoint="http://127.0.0.1:9", region="x"), "retries": 0}
    with (
        fetcher(**config) as fetched,
        pytest.raises(ServiceUnavailable, match=r"s3://ours/a.png \(NETWORK_CONNECTION\)"),
    ):
        fetched.fetch(ref("s3://ours/a.png"))


def test_a_store_that_trickles_runs_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not stop.wait(0.02):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: trickle(listener.accept()[0]))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = {"allowed_buckets": ("ours",), "s3": S3Config(endpoint=endpoint, region="x"), "retries": 0}
        try:
            with (
                fetcher(**config, timeout_s=0.3) as fetched,
                pytest.raises(ServiceUnavailable, match=r"too slow: 0\.3 s"),
            ):
                fetched.fetch(ref("s3://ours/a.png"))
        finally:
            stop.set()
