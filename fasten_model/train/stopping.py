"""Leaving a training early, and in good order."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

Stop = AbstractContextManager[Callable[[], bool]]
"""Entered while steps are made; says after each whether to stop."""


class Stopped(Exception):
    """Training was asked to stop, and did after `step` steps; `kept` says whether a checkpoint was to be saved."""

    def __init__(self, step: int, *, kept: bool) -> None:
        super().__init__(f"training was stopped after {step} steps" + ("" if kept else ", of which nothing is kept"))
        self.step = step
        self.kept = kept


@contextmanager
def stop_on(
    *signals: signal.Signals, heard: Callable[[signal.Signals], None] | None = None
) -> Iterator[Callable[[], bool]]:
    """A `Stop` that is asked for by any of `signals`; afterwards they do what they did before.

    Only for the main thread: in another one no signal is heard.
    """
    asked = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if heard is not None:
            heard(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = [(number, signal.signal(number, ask)) for number in signals]
    try:
        yield lambda: asked
    finally:
        for number, handler in before:
            signal.signal(number, handler)
