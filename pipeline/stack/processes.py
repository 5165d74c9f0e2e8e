"""The processes of one stack: which live, which have lost their parent, and how they are ended in order."""

import contextlib
import http.client
import logging
import xmlrpc.client
from pathlib import Path
from typing import get_args

import psutil

from pipeline.errors import StackError
from pipeline.stack import supervisord
from pipeline.stack.services import ServiceName
from pipeline.stack.state import Memory

logger = logging.getLogger(__name__)

_STARTED = frozenset({"STARTING", "RUNNING"})
_STOP_TIMEOUT_S = 60.0
_FLOW_RUN_TIMEOUT_S = 10.0


def living(memory: Memory) -> dict[ServiceName, psutil.Process]:
    """The living process of each service, as supervisord knows it."""
    processes: dict[ServiceName, psutil.Process] = {}
    known: tuple[ServiceName, ...] = get_args(ServiceName)
    with contextlib.suppress(OSError, http.client.HTTPException), supervisord.connect(Path(memory.socket)) as rpc:
        for info in rpc.getAllProcessInfo():
            if info["name"] in known and info["statename"] in _STARTED:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(int(info["pid"]))
                    # A zombie has ended, and supervisord is about to find out.
                    if process.status() != psutil.STATUS_ZOMBIE:
                        processes[info["name"]] = process
    return processes


def end_strays(memory: Memory) -> None:
    """End what has lost its parent in a stack whose supervisord lives.

    Such are the flow runs of a killed worker, and the child of a killed server, which would keep the server's port
    from the one that is started in its place.
    """
    with supervisord.connect(Path(memory.socket)) as rpc:
        parent = psutil.Process(int(rpc.getPID()))
    if strays := supervisord.sweep(memory.stack_id, keep=parent):
        logger.info("ended %d processes of the stack that had lost their parent", strays)


def start(memory: Memory, name: ServiceName) -> None:
    """Have supervisord start one service, anew if it runs or is being retried; returns before it is well.

    Raises:
        StackError: supervisord cannot start it.
    """
    stop(memory, name)
    end_strays(memory)  # a child of the one that was stopped may hold its port a little longer
    try:
        with supervisord.connect(Path(memory.socket)) as rpc:
            rpc.startProcess(name, False)
    except xmlrpc.client.Fault as fault:
        raise StackError(f"supervisord cannot start {name}: {fault.faultString}") from None


def stop(memory: Memory, name: ServiceName) -> None:
    """Have supervisord stop one service, if it runs."""
    if name == "worker":
        _end_flow_runs(memory)
    with supervisord.connect(Path(memory.socket)) as rpc, contextlib.suppress(xmlrpc.client.Fault):
        rpc.stopProcess(name, True)


def shut_down(memory: Memory) -> int:
    """Have supervisord stop its services and end, then end whatever still carries the stack's mark."""
    before = len(supervisord.members(memory.stack_id))
    if before:
        _end_flow_runs(memory)
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error, psutil.Error):
            with supervisord.connect(Path(memory.socket)) as rpc:
                process = psutil.Process(int(rpc.getPID()))
                rpc.shutdown()
            process.wait(timeout=_STOP_TIMEOUT_S)
        supervisord.sweep(memory.stack_id)
    socket_file = Path(memory.socket)
    socket_file.unlink(missing_ok=True)
    if socket_file.parent.name.startswith("fasten-"):
        with contextlib.suppress(OSError):
            socket_file.parent.rmdir()
    return before


def _end_flow_runs(memory: Memory) -> None:
    """End the flow runs of the worker while Prefect can still be told: they count as crashed then, not as running."""
    with contextlib.suppress(KeyError, psutil.NoSuchProcess):
        runs = living(memory)["worker"].children()
        if runs:
            logger.info("ending %d running flow runs", len(runs))
        for run in runs:
            run.terminate()
        psutil.wait_procs(runs, timeout=_FLOW_RUN_TIMEOUT_S)
