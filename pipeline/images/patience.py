"""Waiting for calls that cannot be interrupted, no longer than one is willing to."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Work = tuple[Callable[[], Any], "Future[Any]"]


class Patience:
    """Gives each thread that asks a companion thread for such calls, and a new one where that is stuck.

    What is stuck is left to itself: a daemon, so that nobody joins it. `close` lets the companions go.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._companions: set[SimpleQueue[_Work | None]] = set()

    def call(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` gives or raises; `TimeoutError` where it takes longer than `seconds`."""
        companion: SimpleQueue[_Work | None] | None = getattr(self._own, "companion", None)
        if companion is None:
            companion = self._own.companion = self._new()
        result: Future[T] = Future()
        companion.put((work, result))
        try:
            return result.result(seconds)
        except TimeoutError:
            if not result.done():
                self._own.companion = None
                self._dismiss(companion)
            raise

    def close(self) -> None:
        with self._lock:
            companions = list(self._companions)
        for companion in companions:
            self._dismiss(companion)

    def _new(self) -> "SimpleQueue[_Work | None]":
        companion: SimpleQueue[_Work | None] = SimpleQueue()
        with self._lock:
            self._companions.add(companion)
        threading.Thread(target=_work_through, args=(companion,), name="patience", daemon=True).start()
        return companion

    def _dismiss(self, companion: "SimpleQueue[_Work | None]") -> None:
        with self._lock:
            self._companions.discard(companion)
        companion.put(None)


def _work_through(queue: "SimpleQueue[_Work | None]") -> None:
    while (given := queue.get()) is not None:
        work, result = given
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
        del given, work, result  # what was read is not kept until the next call comes
