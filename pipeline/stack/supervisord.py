"""supervisord, which runs the services: started detached, spoken to over its socket, and stopped without a trace.

Its configuration is the same for every stack; what a service is started with stands in a JSON file of its own
(`pipeline.stack.launch` reads it), so that no path or password has to survive the escaping of an ini file.
Programming interface: supervisord.org/api.html.
"""

import contextlib
import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import psutil

from pipeline.errors import StackError
from pipeline.stack import launch
from pipeline.stack.services import Service, ServiceName

STACK_ID = "FASTEN_STACK_ID"
"""Name of the mark that every process of a stack carries in its environment."""

_LONGEST_SOCKET_PATH = 90
"""A socket's path may have 107 bytes, and supervisord binds one that is longer by its process id first."""
_CALL_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15
_KILL_TIMEOUT_S = 5

_SUPERVISORD = """\
[supervisord]
logfile=../logs/supervisord.log
logfile_maxbytes=2MB
logfile_backups=1
pidfile=supervisord.pid
umask=077

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
# Paths are relative to the folder that supervisord is started in: an ini file has no way to quote them.
# A service that ends within `startsecs` counts as not started, and is given up after `startretries`: one that
# cannot run at all does not keep a core busy. The worker is stopped first (highest priority), then the servers.
_PROGRAM = """
[program:{name}]
command={command} {name}.json
autostart=false
autorestart=true
startsecs=10
startretries=3
stopsignal=TERM
stopwaitsecs={stop_timeout_s}
stopasgroup=true
killasgroup=true
priority={priority}
umask={umask}
redirect_stderr=true
stdout_logfile=../logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=1
"""


def socket_path(folder: Path) -> Path:
    """Where supervisord is to listen: in `folder`, or in a new private folder where that path is too long."""
    path = folder.absolute() / "supervisor.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH and not set(" ;%\n\r") & set(str(path)):
        return path
    return Path(tempfile.mkdtemp(prefix="fasten-", dir="/tmp")) / "supervisor.sock"  # mode 700


def write_configuration(folder: Path, *, socket_file: Path) -> Path:
    """Write the configuration of all services into `folder`; returns its path."""
    command = [sys.executable, "-I", str(Path(launch.__file__).absolute())]
    if any(";" in part or "\n" in part for part in command):
        raise StackError(f"the stack cannot run from a folder with ';' or a line break in its name: {command[0]}")
    line = " ".join(shlex.quote(part) for part in command).replace("%", "%%")
    umask = os.umask(0o077)
    os.umask(umask)
    text = _SUPERVISORD.format(socket=socket_file)
    for name in get_args(ServiceName):
        text += _PROGRAM.format(
            name=name,
            command=line,
            priority=20 if name == "worker" else 10,
            # What a flow run writes is the user's, with the user's modes.
            umask=f"{umask if name == 'worker' else 0o077:03o}",
            stop_timeout_s=_STOP_TIMEOUT_S,
        )
    path = folder / "supervisord.conf"
    path.write_text(text, encoding="utf-8")
    return path


def write_service(folder: Path, service: Service) -> bool:
    """Write what `service` is to be started with; returns whether that differs from what was written before."""
    path = folder / f"{service.endpoint.name}.json"
    wanted = {"command": list(service.command), "cwd": str(service.cwd), "set": dict(service.environment)}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = {}
    write_private(path, json.dumps({**wanted, "inherit": sorted(service.inherited)}, indent=1))
    return any(written.get(key) != value for key, value in wanted.items())


def write_private(path: Path, text: str) -> None:
    """Write `text` whole or not at all, readable by nobody else."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
        handle.write(text)
    staged.replace(path)


def start(configuration: Path, *, stack_id: str) -> None:
    """Start supervisord, which detaches itself; it starts no service yet.

    Raises:
        StackError: it refuses its configuration, or does not come up.
    """
    command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(configuration)]
    done = subprocess.run(
        command,
        env={**os.environ, STACK_ID: stack_id},
        cwd=configuration.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        raise StackError(f"supervisord did not start: {lines[-1][:300]} (configuration: {configuration})")


@contextlib.contextmanager
def connect(socket_file: Path) -> Iterator[Any]:
    """The `supervisor` namespace of a running supervisord.

    Raises:
        ConnectionError, FileNotFoundError, TimeoutError: nothing answers there.
    """
    with xmlrpc.client.ServerProxy("http://localhost", transport=_SocketTransport(socket_file)) as server:
        yield server.supervisor


def answers(socket_file: Path) -> bool:
    """Whether a supervisord answers on this socket."""
    try:
        with connect(socket_file) as supervisor:
            supervisor.getState()
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return False
    return True


def members(stack_id: str, *, keep: psutil.Process | None = None) -> list[psutil.Process]:
    """Every living process of this user that carries the stack's mark, with all their children.

    Left out are this process, and `keep` with its children.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and process.environ().get(STACK_ID) == stack_id:
                found.update((member.pid, member) for member in _family(process))
        except psutil.Error:  # ended while it was looked at, or not ours to look at
            continue
    spared = {os.getpid()} | ({member.pid for member in _family(keep)} if keep is not None else set())
    return [process for pid, process in found.items() if pid not in spared]


def sweep(stack_id: str, *, keep: psutil.Process | None = None) -> int:
    """End the `members` of the stack: asked first, then killed; returns how many there were.

    Raises:
        StackError: one is still there after it was killed.
    """
    total = 0
    for force in (False, True, True):
        living = members(stack_id, keep=keep)
        if not living:
            return total
        total = max(total, len(living))
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if force else process.terminate()
        psutil.wait_procs(living, timeout=_KILL_TIMEOUT_S)
    if living := members(stack_id, keep=keep):
        raise StackError(f"processes of the stack do not end: {', '.join(str(process.pid) for process in living)}")
    return total


def _family(process: psutil.Process) -> list[psutil.Process]:
    """A living process and all its living children; what is below a zombie has lost its parent, and is none."""
    found: list[psutil.Process] = []
    pending = [process]
    while pending:
        member = pending.pop()
        with contextlib.suppress(psutil.NoSuchProcess):
            if member.status() != psutil.STATUS_ZOMBIE:
                found.append(member)
                pending += member.children()
    return found


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket, with a time-out."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection[1] is None:
            self._connection = host, _SocketConnection(self._path)
        assert isinstance(self._connection[1], http.client.HTTPConnection)
        return self._connection[1]


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise
