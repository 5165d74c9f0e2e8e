"""The terminal: one console for results, one for everything else, and the log lines of long work."""

import logging
import warnings

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
"""Results: standard output."""
err = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and complaints: standard error."""


def log_to_terminal() -> None:
    """Show what the pipeline and the method have to say of their progress."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    for name in ("pipeline", "fasten_model"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False
    # Libraries warn their developers, not our users: their warnings are errors in our tests instead.
    warnings.simplefilter("ignore")


def complain(line: str) -> None:
    """One line on standard error."""
    err.print(f"fasten: error: {' '.join(line.split())}", style="red", markup=False)
