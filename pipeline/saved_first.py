"""A signal that ends the process finds a training's progress saved, and only then takes its course."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from fasten_model.train.stopping import Stop, StopOn, Stopped

logger = logging.getLogger(__name__)


@contextmanager
def saved_first() -> Iterator[Stop]:
    """A `Stop` for a training that keeps checkpoints: on SIGTERM and Ctrl-C it saves, and leaves.

    Then the signal is raised once more, for whatever heard it before: Prefect's engine, which tells its server, or
    Python, which ends. Raises `Stopped` where that lets the process live.
    """
    heard: list[signal.Signals] = []
    try:
        yield StopOn(signal.SIGTERM, signal.SIGINT, heard=heard.append)
    except Stopped as stopped:
        logger.warning("%s; the same again goes on from there", stopped)
        signal.raise_signal(heard[-1])
        raise
