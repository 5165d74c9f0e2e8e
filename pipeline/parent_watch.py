"""End this process when the process that started it is gone.

Prefect's process worker, killed outright, leaves its flow runs behind: they would train on as orphans beside the run
that replaces them (Prefect issues 16746, 22528). A flow run that is started by a worker watches its parent instead.
"""

import logging
import os
import signal
import threading

logger = logging.getLogger(__name__)


GRACE_S = 20.0
"""How long the run may take to end by itself before it is killed."""


def watch_parent(*, interval_s: float = 2.0, grace_s: float = GRACE_S) -> threading.Event:
    """End this process once its parent has changed: SIGTERM, then SIGKILL; set the returned event to stop watching."""
    parent = os.getppid()
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(interval_s):
            if os.getppid() != parent:
                # Killed first and told afterwards: with the worker gone, standard output is a broken pipe, and writing
                # to it may end this thread.
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Timer(grace_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
                logger.error("the worker (process %d) is gone: this run ends, the next one goes on", parent)
                return

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return stopped
