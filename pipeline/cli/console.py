"""The terminal: one console for results, one for everything else, and the log lines of long work."""

import logging
import sys
import warnings
from typing import TextIO

from rich.console import Console

_UNLIMITED = 10_000
"""Columns of a file or a pipe: what a script reads is neither wrapped nor cut."""


def _columns(stream: TextIO) -> int | None:
    return None if stream.isatty() else _UNLIMITED


# No emoji: ids and class names are shown as they are, and `ls:100:5` is not “ls💯5”.
out = Console(highlight=False, emoji=False, soft_wrap=True, width=_columns(sys.stdout))
"""Results: standard output."""
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True, width=_columns(sys.stderr))
"""Progress and complaints: standard error."""


def printable(text: str) -> str:
    """Text from outside without what would steer the terminal; line ends stay."""
    return "".join(mark if mark.isprintable() or mark == "\n" else "�" for mark in text)


def say(line: str) -> None:
    """One result on standard output, as it is: no markup in it means anything."""
    out.print(printable(line), markup=False)


def complain(line: str) -> None:
    """One line on standard error."""
    err.print(f"fasten: error: {printable(' '.join(line.split()))}", style="red", markup=False)


class _Lines(logging.Formatter):
    """Time and message. Messages hold titles, class names and file names from outside."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_terminal() -> None:
    """Show what the pipeline and the method have to say of their progress."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(asctime)s  %(message)s", "%H:%M:%S"))
    for name in ("pipeline", "fasten_model"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False
    # Libraries warn their developers, not our users: their warnings are errors in our tests instead.
    warnings.simplefilter("ignore")
