"""Images that need no network: `data:` URIs, and local files below a root that no path leaves."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.images.check import ImageConfig, ImageError
from pipeline.images.fetch import ImageFetcher
from pipeline.records import ImageRef

BASE = "http://label-studio.example:8080"


def ref(url: str) -> ImageRef:
    return ImageRef(url=url, task_id=3)


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
    ["../outside.png", "set%20one/../../outside.png", "..%2foutside.png", "/../outside.png", "%2e%2e/outside.png"],
)
def test_no_path_leaves_the_root(root: Path, name: str) -> None:
    with fetcher(local_files_root=root) as local, pytest.raises(ImageError) as caught:
        local.fetch(ref(f"/data/local-files/?d={name}"))
    assert caught.value.reason == "image lies outside the local files"


def test_no_link_leaves_the_root(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "outside.png")
    (root / "folder").symlink_to(root.parent, target_is_directory=True)
    (root / "inside.png").symlink_to(root / "set one" / "a.png")
    with fetcher(local_files_root=root) as local:
        for name in ("link.png", "folder/outside.png"):
            with pytest.raises(ImageError, match="outside the local files"):
                local.fetch(ref(f"/data/local-files/?d={name}"))
        assert local.fetch(ref("/data/local-files/?d=inside.png")) == b"bytes"


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
