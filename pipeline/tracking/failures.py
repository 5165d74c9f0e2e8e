"""Turns what MLflow's client raises into our exception tree, and keeps passwords out of what is logged."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException

from pipeline.errors import ServiceError, ServiceUnavailable

logger = logging.getLogger(__name__)

_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
_MESSAGE_LIMIT = 300


def without_credentials(text: str) -> str:
    """`text` with `user:password@` taken out of every URL in it."""
    return _USERINFO.sub("", text)


@contextmanager
def translated(what: str, uri: str) -> Iterator[None]:
    """Raise `ServiceUnavailable` or `ServiceError` for what goes wrong inside, in one line that says `what`.

    Only MLflow calls belong inside: an OSError there is the network's (`requests` derives its errors from it).
    """
    uri = without_credentials(uri)
    try:
        yield
    except MlflowException as error:
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        raise _of_status(status, what, uri, str(error)) from error
    except OSError as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", 503)
        raise _of_status(status, what, uri, str(error)) from error


def _of_status(status: int, what: str, uri: str, message: str) -> ServiceError:
    if status in (401, 403):
        return ServiceError(
            f"MLflow at {uri} refused to {what} ({status}); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    answer, unreadable, _ = message.partition(" Response body: ")
    if unreadable and status == 404:  # MLflow's own answers are JSON, which its client does not quote
        return ServiceError(
            f"MLflow at {uri} would not {what}: {_one_line(answer)}; does FASTEN_MLFLOW_TRACKING_URI point at MLflow?"
        )
    reason = _one_line(message)
    if status >= 500 or status in (408, 429):
        return ServiceUnavailable(
            f"MLflow at {uri} could not {what}: {reason}; is it running, and is FASTEN_MLFLOW_TRACKING_URI right?"
        )
    return ServiceError(f"MLflow at {uri} would not {what}: {reason}")


def _one_line(message: str) -> str:
    line = " ".join(without_credentials(message).split())
    if "Connection refused" in line:
        return "connection refused"
    return line if len(line) <= _MESSAGE_LIMIT else line[:_MESSAGE_LIMIT] + "…"
