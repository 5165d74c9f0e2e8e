"""End this process when the process that started it is gone.

Prefect's process worker, killed outright, leaves its flow runs behind: they would train on as orphans beside the run
that replaces them (Prefect issues 16746, 22528). A flow run that is started by a worker watches its parent instead.
"""

import logging
import os
import signal
import threading

logger = logging.getLogger(__name__)


def watch_parent(*, interval_s: float = 2.0) -> threading.Event:
    """Send this process SIGTERM once its parent has changed; set the returned event to stop watching."""
    parent = os.getppid()
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(interval_s):
            if os.getppid() != parent:
                logger.error("the worker (process %d) is gone: this run ends, the next one goes on", parent)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return stopped
