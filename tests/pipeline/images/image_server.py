"""A real HTTP server on loopback that answers as it is told, for tests of what is fetched and how."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from PIL import Image

from pipeline.records import ImageRef

Answer = tuple[int, dict[str, str], bytes]


class ImageServer:
    """Answers by path; keeps what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer | list[Answer] | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def give(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        """Answer `path` so; the whole URL of it."""
        self.answers[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        return self.url + path

    def redirect(self, path: str, to: str) -> str:
        return self.give(path, status=302, Location=to)

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers, in lower case, of each request for `path`."""
        return [headers for where, headers in self.requests if where == path]


@contextmanager
def serving() -> Iterator[ImageServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            answer = server.answers.get(self.path, (404, {}, b"nothing here"))
            if callable(answer):
                answer(self)
                return
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            status, headers, body = answer
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # a client that hangs up early is what some tests are about
                self.close_connection = True

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = False
    server = ImageServer(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


def ref(url: str) -> ImageRef:
    return ImageRef(url=url, task_id=3)


def picture(colour: int = 0) -> bytes:
    file = BytesIO()
    Image.new("L", (2, 2), colour).save(file, "PNG")
    return file.getvalue()
