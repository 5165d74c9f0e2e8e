"""Leaving a training early, and in good order."""

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

Stop = AbstractContextManager[Callable[[], bool]]
"""Entered while steps are made, and again by the next training; says after each step whether to stop."""


class Stopped(Exception):
    """Training was asked to stop, and did after `step` steps; `kept` says whether a checkpoint was to be saved."""

    def __init__(self, step: int, *, kept: bool) -> None:
        super().__init__(f"training was stopped after {step} steps" + ("" if kept else ", of which nothing is kept"))
        self.step = step
        self.kept = kept


class StopOn(AbstractContextManager[Callable[[], bool]]):
    """A `Stop` that is asked for by any of `signals`; afterwards they do what they did before. One that the process
    ignores (a shell makes its background jobs ignore Ctrl-C) goes on being ignored.

    It may be entered again, once it has been left: by the next of several trainings. Only for the main thread: in
    another one no signal is heard.
    """

    def __init__(self, *signals: signal.Signals, heard: Callable[[signal.Signals], None] | None = None) -> None:
        self._signals, self._heard = signals, heard
        self._before: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Callable[[], bool]:
        asked = False

        def ask(number: int, _frame: FrameType | None) -> None:
            nonlocal asked
            asked = True
            if self._heard is not None:
                self._heard(signal.Signals(number))

        if threading.current_thread() is threading.main_thread():
            listened = [number for number in self._signals if signal.getsignal(number) != signal.SIG_IGN]
            self._before = [(number, signal.signal(number, ask)) for number in listened]
        return lambda: asked

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before:
            signal.signal(*self._before.pop())
