"""The calls the rest of the project makes, each a plain function of plain records.

API: https://api.labelstud.io. Nothing that writes is repeated blindly: where an answer was lost, what is there is
looked up first (`create_project`), the server refuses a second copy (`submit`), or the caller looks up its own keys
before it tries again (`import_tasks`, with `push_keys` or `find_data_values`).
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from pipeline.errors import ServiceError
from pipeline.label_studio.changing import ChangingCalls
from pipeline.label_studio.connection import Connection, LabelStudioConfig, always_there
from pipeline.label_studio.people import PeopleCalls
from pipeline.label_studio.projects import ProjectCalls
from pipeline.label_studio.reading import ReadingCalls
from pipeline.label_studio.tasks import TaskCalls


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """Which Label Studio answers, and to whom."""

    version: str
    user: str
    """E-mail address of the token's owner: for the terminal, never for an artifact."""


class LabelStudio(ProjectCalls, ReadingCalls, TaskCalls, ChangingCalls, PeopleCalls):
    """Label Studio as one user sees it. Every method may raise `ServiceUnavailable` and `ServiceError`."""

    def __init__(self, config: LabelStudioConfig, *, transport: httpx.BaseTransport | None = None) -> None:
        self._connection = Connection(config, transport=transport)
        self._transport = transport

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that are kept open."""
        self._connection.close()

    def authorization(self) -> dict[str, str]:
        """The header for a request to this host, and to no other, such as fetching an uploaded image."""
        return self._connection.authorization()

    def check(self) -> ServerInfo:
        """Version and user; raises `ServiceError` where the token is not accepted. Tried once."""
        with always_there():
            version = self._connection.get("/api/version", what="asking its version", attempts=1)
        if not isinstance(version, dict) or "label-studio-os-package" not in version:
            raise ServiceError(f"{self.url} is not Label Studio; set FASTEN_LABEL_STUDIO_URL")
        user = self._connection.get("/api/current-user/whoami", what="asking who we are", attempts=1)
        return ServerInfo(version=str(version.get("release", "unknown")), user=str(user["email"]))
