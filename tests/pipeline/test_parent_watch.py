"""A flow run whose worker is killed ends itself, even where its standard output has gone with the worker."""

import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

RUN = """
    import logging, sys, time
    from rich.console import Console
    from rich.logging import RichHandler
    from pipeline.parent_watch import watch_parent

    # As Prefect logs: to a console on a pipe that the worker read.
    logging.basicConfig(handlers=[RichHandler(console=Console(file=sys.stdout))], level=logging.INFO)
    watch_parent(interval_s=0.05, grace_s=1.0)
    if sys.argv[2] == "stubborn":
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("watching", flush=True)
    while True:
        time.sleep(0.05)
"""

WORKER = """
    import subprocess, sys
    run = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    run.stdout.readline()
    print(run.pid, flush=True)
    run.wait()
"""

ALIVE = """
    import os, threading
    from pipeline.parent_watch import watch_parent

    looks, getppid = threading.Semaphore(0), os.getppid

    def counted():
        looks.release()
        return getppid()

    os.getppid = counted
    watch_parent(interval_s=0.01)
    print(all([looks.acquire(timeout=20) for _ in range(10)]))
"""


def orphaned(tmp_path: Path, manner: str) -> psutil.Process:
    """A run whose worker has just been killed outright."""
    run, worker = tmp_path / "run.py", tmp_path / "worker.py"
    run.write_text(textwrap.dedent(RUN))
    worker.write_text(textwrap.dedent(WORKER))
    with subprocess.Popen(
        [sys.executable, str(worker), str(run), "-", manner], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = psutil.Process(int(process.stdout.readline()))
        process.kill()
    return found


def test_a_run_ends_when_its_worker_is_killed(tmp_path: Path) -> None:
    orphaned(tmp_path, "willing").wait(timeout=15)


def test_a_run_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    orphaned(tmp_path, "stubborn").wait(timeout=15)


def test_a_run_whose_worker_lives_is_left_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ALIVE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
