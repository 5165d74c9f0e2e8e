"""`fasten` commands as processes of their own: run to their end, killed at a moment, or at an effect (`launcher`)."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
_PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one command ended."""

    code: int
    """Exit code; negative for the signal that ended it."""
    out: str
    err: str
    seconds: float
    effects: tuple[str, ...]
    """What it did to the world, in order (`launcher.Effects`); the last one did not happen, where it died of it."""

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def complaint(self) -> str:
        """The one line that a failed command ends with; asserts that it is one, and no traceback."""
        assert self.code == 1, f"ended with {self.code}\n{self.err}"
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("fasten: error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0]), self.err
        return lines[0].removeprefix("fasten: error: ")


class Commands:
    """Runs one command at a time."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, environment: Mapping[str, str]) -> None:
        self._process = process
        self._folder = folder
        self._environment = environment
        self._pending = b""
        self.threads: int = self._answer(_PATIENCE_S)["ready"]

    def run(
        self,
        *argv: str,
        home: Path,
        environment: Mapping[str, str],
        die_at: tuple[str, int] | None = None,
        kill_after: float | None = None,
        file_limit: int | None = None,
        defaults: Mapping[str, Mapping[str, Any]] | None = None,
        watched: bool = False,
    ) -> Ended:
        """Run `fasten argv` in the folder `home` with nothing but these settings.

        `die_at`: it kills itself before the effect of that name and number. `kill_after`: it is killed so many seconds
        after its start, unless it ended before. `file_limit`: no file can grow beyond so many bytes. `defaults`: other
        default values of keyword-only parameters, by `module:function`. `watched`: its effects are told.
        """
        output = self._folder / "command"
        effects = self._folder / "effects" if watched or die_at is not None else None
        order = {
            "argv": argv,
            "environ": {
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "HOME": str(home),
                **self._environment,
                **environment,
            },
            "cwd": str(home),
            "output": str(output),
            "effects": str(effects) if effects else None,
            "die_at": die_at,
            "file_limit": file_limit,
            "defaults": dict(defaults or {}),
        }
        assert self._process.stdin is not None
        start = time.monotonic()
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._answer(_PATIENCE_S)["pid"]
        ended = self._answer(_PATIENCE_S if kill_after is None else kill_after)
        if not ended:
            if kill_after is None:
                os.kill(pid, signal.SIGUSR1)  # it tells where it stands
                self._answer(1.0)
            os.kill(pid, signal.SIGKILL)
            ended = self._answer(_PATIENCE_S)
            assert kill_after is not None, f"fasten {argv} did not end: {Path(f'{output}.err').read_text()}"
        return Ended(
            code=ended["code"],
            out=Path(f"{output}.out").read_text(encoding="utf-8"),
            err=Path(f"{output}.err").read_text(encoding="utf-8"),
            seconds=time.monotonic() - start,
            effects=tuple(effects.read_text(encoding="utf-8").splitlines()) if effects else (),
        )

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """The launcher's next line; empty where it does not come in time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return {}
            block = os.read(self._process.stdout.fileno(), 65536)
            assert block, f"the launcher died: {(self._folder / 'launcher.log').read_text()}"
            self._pending += block
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def commands(folder: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Commands]:
    """A launcher, started with further `environment`, until the block ends; its files lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "launcher.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.faults.launcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **(environment or {})},
        )
    try:
        yield Commands(process, folder, environment or {})
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:  # a command that does not end; its test has failed of it
            process.kill()
            process.wait()
        process.stdout.close()
