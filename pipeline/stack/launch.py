"""Become the service whose JSON file is named: the one step between supervisord and a server.

Run as a file, with the standard library alone. A shell that starts a command with `&` has it ignore SIGINT, an
ignored signal survives `exec`, and a Prefect worker that ignores signals cannot be stopped: they are set back here.
Of the shell's environment only what is named is kept, so that no server changes with the shell that `fasten up` was
typed into; the values themselves are never written down.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

_RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def launch(path: Path, *, stack_id: str) -> NoReturn:
    """Replace this process by the service described in `path`: `command`, `cwd`, `set` and `inherit` (names)."""
    service = json.loads(path.read_text(encoding="utf-8"))
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(service["cwd"])
    command = service["command"]
    inherited = {name: os.environ[name] for name in service["inherit"] if name in os.environ}
    # The mark that `fasten down` finds every process of the stack by, and those that they start.
    os.execve(command[0], command, {**inherited, **service["set"], "FASTEN_STACK_ID": stack_id})  # noqa: S606


if __name__ == "__main__":
    launch(Path(sys.argv[1]), stack_id=os.environ["FASTEN_STACK_ID"])
