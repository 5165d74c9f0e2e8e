"""An HTTP transport that counts: requests, bytes of the answers' bodies, and when the last one had come."""

import threading
import time
from collections.abc import Iterator

import httpx


class CountingTransport(httpx.HTTPTransport):
    """Passes everything on; safe to share between threads."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.received = 0
        self.last_answer = time.perf_counter()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Count the request, and its answer's body as it is read."""
        with self._lock:
            self.requests += 1
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Counted(response.stream, self),
            extensions=response.extensions,
        )

    def count(self, block: bytes) -> None:
        """Add a piece of a body."""
        with self._lock:
            self.received += len(block)
            self.last_answer = time.perf_counter()


class _Counted(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, transport: CountingTransport) -> None:
        self._stream, self._transport = stream, transport

    def __iter__(self) -> Iterator[bytes]:
        for block in self._stream:
            self._transport.count(block)
            yield block

    def close(self) -> None:
        self._stream.close()
