"""Fetches the bytes behind one image address, from allowed places only.

What a task's data says is not trusted: the token goes to Label Studio's own image paths and nowhere else, every
redirect is checked as if it were the first URL, what it resolves to is checked too (`wire`), and reading stops at the
byte limit and at the deadline.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, unquote_to_bytes

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.images.bucket import Buckets
from pipeline.images.check import ImageConfig, ImageError
from pipeline.images.local import LocalFiles
from pipeline.images.wire import Wire, within
from pipeline.records import ImageRef

_REDIRECTS = 5
_NO_SERVICE = frozenset({408, 425, 429, 502, 503, 504})
_STORAGE_FAILED = 424  # Label Studio's word for a bucket behind it that gave nothing, for whatever reason
_DEFAULT_PORTS = {"http": 80, "https": 443}
_IN_THE_CLOUD = ("s3://", "gs://", "azure-blob://")
# Label Studio's addresses for uploaded, local and cloud files. A GET of any other path is not ours to make with a
# token: a task's data could name `/user/logout` or a whole project's export.
_IMAGE_PATHS = re.compile(r"/(data|storage-data|static)/|/(tasks|projects)/\d+/(resolve|presign)/")


class _ServerFault(ImageError):
    """A server failed over this image: worth another attempt, but no sign that it fails over others.

    Label Studio 1.23.2 answers 500 for an uploaded file that is gone, every time.
    """

    def __init__(self, status: int, where: str) -> None:
        super().__init__(f"image host answered {min(status, 599)}", where, passing=True)


class ImageFetcher:
    """Bytes by address. One instance serves many threads.

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
        self._buckets = Buckets(config)
        below = self._base.path.rstrip("/")
        self._local_addresses = tuple(
            f"{start}/data/local-files/?" for start in dict.fromkeys(("", below, str(self._base).rstrip("/")))
        )
        self._local = None
        if config.local_files_root is not None:
            self._local = LocalFiles(config.local_files_root, max_bytes=config.max_bytes)
        # No `httpx.Client`: it would keep cookies, which hosts and ports share, and log signed URLs.
        self._wire = transport or Wire(connections=config.concurrency, trusted=self._is_label_studios)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._wire.close()
        self._buckets.close()

    def fetch(self, ref: ImageRef) -> bytes:
        """At most `max_bytes` bytes of the image that `ref` names.

        Raises `ImageError` where there is no image to be had, `ServiceUnavailable` where a host does not answer after
        all retries, and another `ServiceError` or `ConfigError` where it is not for the image to mend: a token or
        credentials that are not accepted, a bucket that does not exist.
        """
        url = ref.url
        if url[:5].lower() == "data:":
            return self._inline(url)
        if self._buckets.covers(url):
            return self._patiently(lambda: self._buckets.read(url))
        if url.lower().startswith(_IN_THE_CLOUD):
            return self._through_label_studio(ref)
        if self._local is not None and (name := self._local_name(url)) is not None:
            return self._local.read(name)
        target = self._resolve(url)
        return self._patiently(lambda: self._download(target))

    def _through_label_studio(self, ref: ImageRef) -> bytes:
        """What Label Studio's own storages have there: it sends the bytes, or to where they are for a minute."""
        # URL-safe: Label Studio's decoder drops `+` and `/` of the other alphabet without a word.
        encoded = base64.urlsafe_b64encode(ref.url.encode("utf-8", "replace")).decode()
        target = self._resolve(f"/tasks/{ref.task_id}/resolve/?fileuri={quote(encoded)}")
        try:
            return self._patiently(lambda: self._download(target))
        except ImageError as error:
            where = f"{error.particulars}, for {_shown(ref.url)}"
            raise ImageError(error.reason, where, passing=error.passing) from error

    def _patiently(self, attempt: Callable[[], bytes]) -> bytes:
        return Retrying(
            retry=retry_if_exception_type((ServiceUnavailable, _ServerFault)),
            stop=stop_after_attempt(1 + self._config.retries),
            wait=wait_random_exponential(multiplier=self._config.retry_wait_s, max=30),
            reraise=True,
        )(attempt)

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
            prefix, path = self._base.path.rstrip("/"), _plain(url.path)
            below = path[len(prefix) :] if path.startswith(f"{prefix}/") else ""
            if ".." in path.replace("\\", "/").split("/") or not _IMAGE_PATHS.match(below):
                raise ImageError("image URL is not an image's on Label Studio", _shown(url.path))
            return url
        host = url.raw_host.decode("ascii", "replace").lower()
        host = f"[{host}]" if ":" in host else host
        default = _DEFAULT_PORTS[url.scheme]
        wanted = f"{host}:{url.port}" if url.port not in (None, default) else host
        if not self._allowed & {wanted, f"{host}:{url.port or default}"}:
            raise ImageError(
                "image host is not allowed", f"{wanted[:120]}; add it to FASTEN_ALLOWED_IMAGE_HOSTS if it is yours"
            )
        return url

    def _is_label_studio(self, url: httpx.URL) -> bool:
        return _origin(url) == _origin(self._base)

    def _is_label_studios(self, host: str, port: int) -> bool:
        _, ours, our_port = _origin(self._base)
        return (host.lower().encode("ascii", "replace"), port) == (ours, our_port)

    def _download(self, url: httpx.URL) -> bytes:
        with within(self._config.timeout_s):
            for _ in range(_REDIRECTS + 1):
                answer = self._ask(url)
                if isinstance(answer, bytes):
                    return answer
                url = answer
        raise ImageError("image URL redirects too often", _shown(str(url)))

    def _ask(self, url: httpx.URL) -> bytes | httpx.URL:
        """The body, or where it is instead."""
        ours = self._is_label_studio(url)
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "fasten"}
        # Label Studio answers 406 to `Accept: image/*`, hence any type; what comes is checked anyway.
        if ours:
            headers |= self._authorization()
        timeouts = httpx.Timeout(self._config.timeout_s).as_dict()
        request = httpx.Request("GET", url, headers=headers, extensions={"timeout": timeouts})
        try:
            response = self._wire.handle_request(request)
            response.request = request
            try:
                if response.has_redirect_location:
                    return self._checked(url.join(response.headers["location"]))
                self._check_status(response, ours=ours)
                return self._body(response)
            finally:
                response.close()
        except (httpx.InvalidURL, ValueError) as error:
            raise ImageError("image URL is malformed", f"a redirect of {_shown(str(url))}") from error
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            raise ServiceUnavailable(f"image host {url.host} does not answer ({what}); try again later") from error

    def _check_status(self, response: httpx.Response, *, ours: bool) -> None:
        status, url = response.status_code, response.url
        if status == 401 and ours:
            raise ServiceError("Label Studio does not accept the token for images; set FASTEN_LABEL_STUDIO_TOKEN")
        if status in _NO_SERVICE:
            raise ServiceUnavailable(f"image host {url.host} answered {status} for {_shown(url.path)}")
        if status >= 500 or (ours and status == _STORAGE_FAILED):
            raise _ServerFault(status, _shown(url.path))
        if status != 200:
            said = str(status) if 400 <= status < 500 else "without an image"
            raise ImageError(f"image host answered {said}", _shown(url.path))
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # Compressed bytes could unpack to anything; we asked for none.
            raise ImageError("image is sent compressed", _shown(url.path))

    def _body(self, response: httpx.Response) -> bytes:
        limit = self._config.max_bytes
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise ImageError("image has too many bytes", f"{announced}, limit {limit}")
        body = bytearray()
        for block in response.iter_raw():
            body += block
            if len(body) > limit:
                raise ImageError("image has too many bytes", f"more than {limit}")
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

    def _local_name(self, url: str) -> str | None:
        """The `d=` of a local-files address, in the spellings that Label Studio has for it."""
        for start in self._local_addresses:
            if url.startswith(start):
                query = url[len(start) :].partition("#")[0]
                return parse_qs(query).get("d", [""])[-1]  # as Django reads it: the last
        return None


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host.lower(), url.port or _DEFAULT_PORTS.get(url.scheme)


def _plain(path: str) -> str:
    """`path` without escapes, escaped ones included: who sits before Label Studio may undo them once more."""
    for _ in range(3):
        path = unquote(path)
    return path


def _shown(url: str) -> str:
    """A URL for a message: in one line, not at length, and without what may be a secret, a query or a password."""
    place = re.sub(r"//[^/]*@", "//…@", url.partition("?")[0][:1000])
    return "".join(letter if letter.isprintable() else "?" for letter in place[:120])
