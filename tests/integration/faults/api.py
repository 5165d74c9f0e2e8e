"""Label Studio's own API, as the browser of somebody at work calls it."""

import ssl
from typing import Any

import httpx

from pipeline.label_studio import LabelStudio

_TLS = ssl.create_default_context()
"""Not needed on loopback; but a client that is given none makes its own, which takes longer than most requests."""


def call(door: LabelStudio, method: str, path: str, **options: Any) -> Any:
    """The decoded answer of one request, past our own door; asserts that it is a good one."""
    url, headers = f"{door.url}{path}", {**door.authorization(), **options.pop("headers", {})}
    response = httpx.request(method, url, headers=headers, timeout=60, verify=_TLS, **options)
    assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:300]}"
    return response.json() if response.content else None
