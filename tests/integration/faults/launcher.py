"""Runs `fasten` commands for the tests, each in a process of its own that can be killed at any point.

Importing everything that a command needs takes longer than the command, so this program imports it once and forks for
each command that it reads from its standard input (one JSON object a line); it answers with the process id at once and
with the exit status at the end.

Where a process may die is not a list of our functions, which would grow old: it is before every *effect* that it has
on the world outside of it (a request sent, an answer received, a file opened for writing, renamed or removed, a
transaction committed). The child counts its effects, writes them down, and kills itself before the one it is told to.
"""

import faulthandler
import importlib
import json
import os
import re
import resource
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

IMPORTED = (
    "pipeline.cli.rounds",
    "pipeline.label_studio.interface",
    "pipeline.loop.model",
    "pipeline.loop.outcome",
    "pipeline.loop.pushing",
    "pipeline.loop.queueing",
    "pipeline.loop.survey",
    # What those import only once it is needed.
    "h2.connection",
    "httpcore",
    "label_studio_sdk.label_interface",
    "matplotlib.pyplot",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
)
_RANDOM = re.compile(r"[0-9a-f]{8,}|(?<=\.)\d+$|(?<=/)\d+(?=/)|(?<=-)\d+(?=[-.])")
_WRITING = os.O_WRONLY | os.O_RDWR


class Effects:
    """Counts what this process does to the world, and ends it before the effect of a given name and number (from 1).

    Names are the same in every run: what is drawn at random, or counted up, is a star in them.
    """

    def __init__(self, log: int, below: str, die_at: tuple[str, int] | None) -> None:
        self._log, self._below, self._die_at = log, below, die_at
        self._count = Counter[str]()
        self._last = threading.local()
        self._one_at_a_time = threading.RLock()

    def watch(self) -> None:
        sys.addaudithook(self._audit)
        self._watch_requests()
        self._watch_databases()

    def _effect(self, what: str) -> None:
        with self._one_at_a_time:  # several threads have effects
            name = _RANDOM.sub("*", what)
            if name == "commit":
                name = f"commit after {getattr(self._last, 'effect', 'the start')}"
            else:
                self._last.effect = name  # of this thread: another one may be reading ahead
            self._count[name] += 1
            os.write(self._log, f"{name}\n".encode())
            if self._die_at == (name, self._count[name]):
                os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes | os.PathLike) and flags & _WRITING:
                self._at(path, "open")
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            self._at(args[1] if event == "os.rename" else args[0], event.removeprefix("os."))

    def _at(self, path: Any, what: str) -> None:
        if isinstance(path, int):
            return
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a Path would be made within the hook
        if full.startswith(self._below):
            self._effect(f"{what} {full[len(self._below) :]}")

    def _watch_requests(self) -> None:
        import httpx

        send = httpx.Client.send

        def sending(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
            what = f"{request.method} {request.url.path}"
            self._effect(f"send {what}")
            response = send(client, request, **options)
            self._effect(f"heard {what}")
            return response

        httpx.Client.send = sending  # type: ignore[assignment, method-assign]

    def _watch_databases(self) -> None:
        connect = sqlite3.connect

        def connecting(*args: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **options)
            connection.set_trace_callback(lambda told: self._effect("commit") if told == "COMMIT" else None)
            return connection

        sqlite3.connect = connecting  # type: ignore[assignment]


def child(order: dict[str, Any]) -> None:
    """Become the command; does not return."""
    code = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            target = os.open(f"{order['output']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(target, number)
        faulthandler.register(signal.SIGUSR1)  # where it stands, for a test that waits for it in vain
        os.environ.clear()
        os.environ.update(order["environ"])
        os.chdir(order["cwd"])
        for name, defaults in order["defaults"].items():
            _change_defaults(_resolve(name), defaults)
        if order["file_limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
        if order["effects"]:
            log = os.open(order["effects"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            Effects(log, order["cwd"].rstrip("/") + "/", tuple(order["die_at"]) if order["die_at"] else None).watch()
        sys.argv = ["fasten", *order["argv"]]
        from pipeline.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _change_defaults(function: Any, defaults: dict[str, Any]) -> None:
    """Other values for keyword-only parameters, as if every caller gave them; a `pause` is so many times shorter."""
    changed = dict(defaults)
    if "pause" in changed:
        times = float(changed["pause"])
        changed["pause"] = lambda seconds: time.sleep(seconds / times)
    assert changed.keys() <= function.__kwdefaults__.keys(), f"{function} has no such parameters: {changed}"
    function.__kwdefaults__.update(changed)


def _resolve(name: str) -> Any:
    """`package.module:Class.method`."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write(json.dumps({"ready": threads}) + "\n")
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(order)
        answers.write(json.dumps({"pid": pid}) + "\n")
        _, status = os.waitpid(pid, 0)
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n")
    os._exit(0)  # what was imported may have threads that take their time


if __name__ == "__main__":
    main()
