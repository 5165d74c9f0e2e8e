"""Fetches the bytes behind one image URL, from allowed places only.

What a task's data says is not trusted: the token goes to Label Studio's own image paths and nowhere else, every
redirect is checked as if it were the first URL, and reading stops at the byte limit.
"""

import base64
import binascii
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, unquote_to_bytes

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.images.check import ImageConfig, ImageError

logger = logging.getLogger(__name__)

_REDIRECTS = 5
_NO_SERVICE = frozenset({408, 425, 429, 502, 503, 504})
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Label Studio's addresses for uploaded, local and cloud files. A GET of any other path is not ours to make with a
# token: a task's data could name `/user/logout` or a whole project's export.
_IMAGE_PATHS = re.compile(r"/(data|storage-data|static)/|/(tasks|projects)/\d+/(resolve|presign)/")


class _ServerFault(ImageError):
    """A server failed over this image: worth another attempt, but no sign that it fails over others.

    Label Studio 1.23.2 answers 500 for an uploaded file that is gone, every time.
    """


class ImageFetcher:
    """Bytes by URL. One instance serves many threads.

    `base_url` is Label Studio's; `authorization` gives the header for it, asked for anew with every request
    (from several threads) because such tokens may live for minutes only.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        base_url: str,
        authorization: Callable[[], Mapping[str, str]],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._config = config
        self._base = httpx.URL(base_url.rstrip("/"))
        if self._base.scheme not in _DEFAULT_PORTS or not self._base.host:
            raise ConfigError(f"Label Studio's URL {base_url!r} is not an http(s) URL; set FASTEN_LABEL_STUDIO_URL")
        self._authorization = authorization
        self._allowed = frozenset(host.lower() for host in config.allowed_hosts)
        # No cookies: hosts and ports would share them. No proxy towards this machine itself.
        # Label Studio answers 406 to `Accept: image/*`, hence any type; what comes is checked anyway.
        self._client = httpx.Client(
            timeout=config.timeout_s,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "fasten"},
            limits=httpx.Limits(max_connections=config.concurrency),
            mounts={"all://127.0.0.1": transport, "all://localhost": transport},
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def fetch(self, url: str) -> bytes:
        """At most `max_bytes` bytes behind `url`.

        `url` is what a task's data holds: a path on Label Studio, an http(s) URL, or a `data:` URI. Raises `ImageError`
        where there is no image to be had, `ServiceUnavailable` where a host does not answer after all retries, and
        `ServiceError` where Label Studio does not accept the token.
        """
        if url[:5].lower() == "data:":
            return self._inline(url)
        target = self._resolve(url)
        if (local := self._local_file(target)) is not None:
            return self._read(local)
        for attempt in Retrying(
            retry=retry_if_exception_type((ServiceUnavailable, _ServerFault)),
            stop=stop_after_attempt(1 + self._config.retries),
            wait=wait_random_exponential(multiplier=self._config.retry_wait_s, max=30),
            reraise=True,
        ):
            with attempt:
                return self._download(target)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _resolve(self, url: str) -> httpx.URL:
        try:
            if url.startswith("/") and not url.startswith("//"):
                # Label Studio below a path of its host gives URLs with and without that path.
                prefix = self._base.path.rstrip("/")
                origin = str(self._base.copy_with(raw_path=b"/"))[:-1]
                return self._checked(httpx.URL(origin + ("" if url.startswith(f"{prefix}/") else prefix) + url))
            return self._checked(httpx.URL(url))
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: what cannot be encoded as a host name
            raise ImageError("image URL is malformed", _shown(url)) from error

    def _checked(self, url: httpx.URL) -> httpx.URL:
        if url.scheme not in _DEFAULT_PORTS:
            raise ImageError("image URL has a scheme that is not allowed", _shown(str(url)))
        if url.userinfo:
            raise ImageError("image URL carries a password", url.host)
        if self._is_label_studio(url):
            prefix, path = self._base.path.rstrip("/"), unquote(url.path)
            below = path[len(prefix) :] if path.startswith(f"{prefix}/") else ""
            if ".." in path.split("/") or not _IMAGE_PATHS.match(below):
                raise ImageError("image URL is not an image's on Label Studio", _shown(url.path))
            return url
        host = url.raw_host.decode("ascii", "replace").lower()
        wanted = f"{host}:{url.port}" if url.port not in (None, _DEFAULT_PORTS[url.scheme]) else host
        if not self._allowed & {wanted, f"{host}:{url.port or _DEFAULT_PORTS[url.scheme]}"}:
            raise ImageError(
                "image host is not allowed", f"{wanted}; add it to FASTEN_ALLOWED_IMAGE_HOSTS if it is yours"
            )
        return url

    def _is_label_studio(self, url: httpx.URL) -> bool:
        return _origin(url) == _origin(self._base)

    def _download(self, url: httpx.URL) -> bytes:
        deadline = time.monotonic() + self._config.timeout_s
        for _ in range(_REDIRECTS + 1):
            ours = self._is_label_studio(url)
            try:
                with self._client.stream("GET", url, headers=dict(self._authorization()) if ours else None) as response:
                    if response.has_redirect_location:
                        url = self._checked(url.join(response.headers["location"]))
                        continue
                    self._check_status(response, ours=ours)
                    return self._body(response, deadline)
            except (httpx.InvalidURL, ValueError) as error:
                raise ImageError("image URL is malformed", f"a redirect of {_shown(str(url))}") from error
            except httpx.TransportError as error:
                what = str(error) or type(error).__name__
                raise ServiceUnavailable(f"image host {url.host} does not answer ({what}); try again later") from error
        raise ImageError("image URL redirects too often", _shown(str(url)))

    def _check_status(self, response: httpx.Response, *, ours: bool) -> None:
        status, url = response.status_code, response.url
        if status == 401 and ours:
            raise ServiceError("Label Studio does not accept the token for images; set FASTEN_LABEL_STUDIO_TOKEN")
        if status in _NO_SERVICE:
            raise ServiceUnavailable(f"image host {url.host} answered {status} for {_shown(url.path)}")
        if status >= 500:
            raise _ServerFault(f"image host answered {status}", _shown(url.path))
        if status != 200:
            raise ImageError(f"image host answered {status}", _shown(url.path))
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # Compressed bytes could unpack to anything; we asked for none.
            raise ImageError("image is sent compressed", _shown(url.path))

    def _body(self, response: httpx.Response, deadline: float) -> bytes:
        limit = self._config.max_bytes
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise ImageError("image has too many bytes", f"{announced}, limit {limit}")
        body = bytearray()
        for block in response.iter_raw():
            body += block
            if len(body) > limit:
                raise ImageError("image has too many bytes", f"more than {limit}")
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"image host {response.url.host} is too slow: {self._config.timeout_s:g} s")
        return bytes(body)

    def _inline(self, url: str) -> bytes:
        limit = self._config.max_bytes
        head, comma, body = url.partition(",")
        if not comma:
            raise ImageError("image URL is malformed", "a data: URI without data")
        # Four characters of base64 give three bytes, one percent escape takes three characters for one byte.
        if len(body) > 3 * limit:
            raise ImageError("image has too many bytes", f"a data: URI of {len(body)} characters, limit {limit} bytes")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        try:
            return base64.b64decode(unquote(body), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError("image does not decode", f"a data: URI that is not base64 ({error})") from error

    def _local_file(self, url: httpx.URL) -> str | None:
        """The `d=` of a local-files address that this machine can read by itself."""
        local = self._base.path.rstrip("/") + "/data/local-files/"
        if self._config.local_files_root is None or not self._is_label_studio(url) or url.path != local:
            return None
        return parse_qs(url.query.decode("ascii", "replace")).get("d", [""])[0]

    def _read(self, name: str) -> bytes:
        root = Path(self._config.local_files_root or "").resolve()
        limit = self._config.max_bytes
        try:
            file = (root / name.lstrip("/")).resolve(strict=True)
            if not file.is_relative_to(root):
                raise ImageError("image lies outside the local files", _shown(name))
            # Not blocking and not following: a pipe or a link put there meanwhile must not catch us.
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as opened:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ImageError("image is not a file", _shown(name))
                data = opened.read(limit + 1)
        except (OSError, ValueError, RuntimeError) as error:  # missing, unreadable, a NUL in the name, a loop of links
            what = getattr(error, "strerror", None) or str(error)
            raise ImageError("image file cannot be read", f"{_shown(name)} ({what})") from error
        if len(data) > limit:
            raise ImageError("image has too many bytes", f"{_shown(name)}, limit {limit}")
        return data


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host.lower(), url.port or _DEFAULT_PORTS.get(url.scheme)


def _shown(url: str) -> str:
    """A URL for a message: in one line, not at length, and without its query, which may hold a signature."""
    return "".join(letter if letter.isprintable() else "?" for letter in url.partition("?")[0][:120])
