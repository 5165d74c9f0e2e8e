"""One connection to one Label Studio: authentication, time limits, and its answers turned into our errors.

The SDK is imported only where a personal access token has to be exchanged (and in `interface`): importing it costs
seconds, it builds an object for every task it reads and sends, it repeats a POST by itself, and it has no call for
uploads that make no tasks. Nothing that writes is ever repeated from here: a write whose answer was lost may have been
carried out.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
from pydantic import SecretStr
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable

logger = logging.getLogger(__name__)

ACCESS_TOKEN_S = 240.0
"""A personal access token is exchanged for a bearer that lives 300 s; ours is renewed a minute before."""

LONGEST_PAUSE_S = 30.0
"""However long a server asks to be left alone: the next round comes anyway."""

Params = Mapping[str, Any] | Sequence[tuple[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStudioConfig:
    """How to reach one Label Studio."""

    url: str
    """Base URL, such as `http://127.0.0.1:8080`; a path prefix is kept."""
    token: SecretStr
    """Legacy token or personal access token."""
    timeout_s: float = 300.0
    """Limit on one request. Imports and exports are synchronous: with 60 s, large ones fail half-way."""
    connect_timeout_s: float = 10.0
    """Limit on opening a connection."""
    page_size: int = 500
    """Tasks read per request."""
    read_attempts: int = 3
    """Attempts at a read that got no answer; writes are never repeated."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"Label Studio URL {self.url!r} must look like http://host:port; set FASTEN_LABEL_STUDIO_URL"
            )
        if self.page_size < 1 or self.read_attempts < 1 or self.timeout_s <= 0 or self.connect_timeout_s <= 0:
            raise ConfigError("Label Studio page size, attempts and time-outs must be positive")


class Connection:
    """Requests to one Label Studio as one user; safe to share between threads."""

    def __init__(self, config: LabelStudioConfig, *, transport: httpx.BaseTransport | None = None) -> None:
        self.config = config
        self.url = config.url.rstrip("/")
        # Label Studio's own server sends the first line of an answer by itself, and on a connection that is kept open
        # the rest waits for the 40 ms after which a client acknowledges it. On one that is closed nothing does. Behind
        # https:// there is another server, and a new connection costs more.
        kept_open = urlsplit(self.url).scheme == "https"
        # Redirects are not followed: a token goes to the configured address and nowhere else.
        self._http = httpx.Client(
            base_url=self.url,
            headers={} if kept_open else {"Connection": "close"},
            timeout=httpx.Timeout(config.timeout_s, connect=config.connect_timeout_s),
            transport=transport,
            follow_redirects=False,
            event_hooks={"response": [self._in_time]},
        )
        self._token = config.token.get_secret_value().strip()
        if re.fullmatch(r"[\w.-]+", self._token, re.ASCII) is None:
            raise ConfigError("the Label Studio token is empty or holds odd characters; set FASTEN_LABEL_STUDIO_TOKEN")
        self._bearer = ""
        self._bearer_until = 0.0
        self._lock = threading.Lock()
        self.server_time: datetime | None = None
        """What the server's clock said when it last answered, to the second; None where it has not said."""

    def close(self) -> None:
        self._http.close()

    def _in_time(self, response: httpx.Response) -> None:
        """Called with every answer before its body is read."""
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _InTime(response.stream, time.monotonic() + self.config.timeout_s)

    def authorization(self) -> dict[str, str]:
        """The header that authenticates against this host, for either kind of token."""
        if self._token.count(".") != 2:  # a legacy token is 40 hex digits, a personal access token is a JWT
            return {"Authorization": f"Token {self._token}"}
        with self._lock:
            if time.monotonic() >= self._bearer_until:
                self._bearer = self._exchange()
                self._bearer_until = time.monotonic() + ACCESS_TOKEN_S
            return {"Authorization": f"Bearer {self._bearer}"}

    def _exchange(self) -> str:
        """A bearer for the personal access token; raises `ServiceError` where that has expired or was revoked."""
        from label_studio_sdk import LabelStudio as LabelStudioSdk
        from label_studio_sdk.core.api_error import ApiError

        what = "exchanging the personal access token"
        with always_there(), self.answers(what):
            try:
                sdk = LabelStudioSdk(  # type: ignore[no-untyped-call]
                    base_url=self.url, api_key=self._token, max_retries=0, httpx_client=self._http
                )
                return str(sdk.tokens.refresh(refresh=self._token).access)
            except ApiError as error:
                raise self._refused(error.status_code or 0, error.headers or {}, error.body, what) from None

    def get(self, path: str, *, what: str, params: Params | None = None, attempts: int | None = None) -> Any:
        """The decoded JSON of a GET, tried again with growing pauses while no answer comes."""
        for attempt in Retrying(
            retry=retry_if_exception_type(ServiceUnavailable),
            stop=stop_after_attempt(attempts or self.config.read_attempts),
            wait=_wait,
            before_sleep=_tell,
            reraise=True,
        ):
            with attempt:
                return self._request("GET", path, what=what, params=params)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def post(self, path: str, *, what: str, params: Params | None = None, **body: Any) -> Any:
        """The decoded JSON of one POST (`json=` or `files=`), sent once.

        Raises `ServiceUnavailable` also where the answer was lost: the request may have been carried out.
        """
        return self._request("POST", path, what=what, params=params, **body)

    def patch(self, path: str, *, what: str, **body: Any) -> Any:
        """The decoded JSON of one PATCH, sent once; raises as `post`."""
        return self._request("PATCH", path, what=what, **body)

    def delete(self, path: str, *, what: str) -> None:
        """One DELETE; what is gone already is no error."""
        headers = self.authorization()
        with self.answers(what):
            response = self._http.request("DELETE", path, headers=headers)
            if not response.is_success and response.status_code != 404:
                raise self._refused(response.status_code, response.headers, _body(response), what)

    def _request(self, method: str, path: str, *, what: str, **kwargs: Any) -> Any:
        headers = self.authorization()
        with self.answers(what):
            response = self._http.request(method, path, headers=headers, **kwargs)
            self.server_time = _date(response.headers) or self.server_time
            if not response.is_success:
                raise self._refused(response.status_code, response.headers, _body(response), what)
            return decoded(response.content)

    @contextmanager
    def answers(self, what: str) -> Iterator[None]:
        """Turns whatever an answer or its absence raises into `ServiceError` and `ServiceUnavailable`."""
        here = f"Label Studio at {self.url}"
        try:
            yield
        except httpx.HTTPStatusError as error:
            answer = error.response
            raise self._refused(answer.status_code, answer.headers, _body(answer), what) from None
        except httpx.TimeoutException:
            raise ServiceUnavailable(f"{here} did not answer in time while {what}; is it overloaded?") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServiceUnavailable(
                f"{here} cannot be reached while {what} ({error or type(error).__name__}); is it running "
                "(`fasten status`), and is FASTEN_LABEL_STUDIO_URL right?"
            ) from None
        except httpx.DecodingError:  # a write may have been carried out all the same
            raise ServiceUnavailable(
                f"{here} sent what cannot be unpacked while {what}; what is between it and this machine?"
            ) from None
        except RecursionError:
            raise ServiceError(
                f"{here} answered with JSON that nests too deep while {what}; look at its data"
            ) from None
        except ValueError:  # JSON that is none
            raise ServiceError(
                f"{here} did not answer with JSON while {what}; does FASTEN_LABEL_STUDIO_URL point at Label Studio?"
            ) from None

    def _refused(self, status: int, headers: Mapping[str, str], body: Any, what: str) -> ServiceError:
        here = f"Label Studio at {self.url}"
        if status in (401, 403):
            return ServiceError(
                f"{here} did not accept the token while {what} ({status}); set FASTEN_LABEL_STUDIO_TOKEN to the access "
                "token of a user who may"
            )
        if 300 <= status < 400:
            target = headers.get("location", "elsewhere")
            return ServiceError(
                f"{here} redirects to {target} while {what}; set FASTEN_LABEL_STUDIO_URL to the address"
            )
        detail = _detail(body)
        if status >= 500 or status in (408, 429):
            kind = ServerFault if status == 500 else ServiceUnavailable
            failed = kind(f"{here} failed while {what} ({status}{detail}); its log says why")
            failed.retry_after_s = _pause(headers.get("retry-after", ""))
            return failed
        return RefusedError(f"{here} refused while {what} ({status}{detail})", status=status)


@contextmanager
def always_there() -> Iterator[None]:
    """Around a call that every Label Studio answers: a 404 says that the address is another's, or a page's below it."""
    try:
        yield
    except RefusedError as error:
        if error.status != 404:
            raise
        raise ServiceError(f"{error}; is FASTEN_LABEL_STUDIO_URL right? It may have a path too many") from None


class _InTime(httpx.SyncByteStream):
    """A body that must have come by then: httpx's own limit starts anew with every byte."""

    def __init__(self, body: httpx.SyncByteStream, deadline: float) -> None:
        self._body, self._deadline = body, deadline

    def __iter__(self) -> Iterator[bytes]:
        for block in self._body:
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout("the answer takes too long")
            yield block

    def close(self) -> None:
        self._body.close()


class ServerFault(ServiceUnavailable):
    """A 500: the server fell over this very request, and perhaps over no other."""


class RefusedError(ServiceError):
    """A 4xx answer that its caller may be able to explain better."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


_backoff = wait_random_exponential(multiplier=0.3, max=10)


def _wait(state: RetryCallState) -> float:
    """A growing random pause, or the longer one that the server asks for."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_backoff(state), error.retry_after_s if isinstance(error, ServiceUnavailable) else 0.0)


def _tell(state: RetryCallState) -> None:
    """Say what the pause is for."""
    error = state.outcome.exception() if state.outcome is not None else None
    logger.warning("%s; trying again in %.1f s", error, state.upcoming_sleep)


def _pause(retry_after: str) -> float:
    """Seconds of a Retry-After header, at most `LONGEST_PAUSE_S`; 0 where it says none."""
    return min(float(retry_after), LONGEST_PAUSE_S) if retry_after.isascii() and retry_after.isdecimal() else 0.0


def decoded(content: bytes) -> Any:
    """JSON, fast; what the fast decoder refuses and the standard one takes (half a surrogate pair, NaN) is taken."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)


def _date(headers: Mapping[str, str]) -> datetime | None:
    """When the server says that it answered."""
    try:
        return parsedate_to_datetime(headers.get("date", "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _detail(body: Any, limit: int = 300) -> str:
    """What Label Studio says of an error, on one line, bounded."""
    if not isinstance(body, dict):
        return ""
    parts = [str(body.get("detail") or "")]
    if body.get("validation_errors"):
        parts.append(str(body["validation_errors"]))
    text = " ".join(" ".join(parts).split())
    return f": {text[:limit]}" if text else ""
