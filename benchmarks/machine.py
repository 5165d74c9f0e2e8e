"""The machine, versions, threads and date that a number belongs to: every benchmark prints and stores this line."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision  # type: ignore[import-untyped]


def machine_line(device: str | torch.device = "cpu") -> str:
    """One line: processor, cores, memory, system, versions, device or threads; the code's commit, date (UTC)."""
    return f"{hardware_line(device)}; {code_line()}"


def hardware_line(device: str | torch.device = "cpu") -> str:
    """What stays the same from run to run: everything but commit and date."""
    facts = machine(device)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory']}, {facts['system']}; "
        f"Python {facts['python']}, torch {facts['torch']} on {facts['device']}"
    )


def code_line() -> str:
    """“code 97b50b6+, 2026-11-22 18:57 UTC”; + where tracked files differ from the commit."""
    return f"code {commit()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def machine(device: str | torch.device = "cpu") -> dict[str, str]:
    """The same as texts by name, for a file's metadata."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": str(torchvision.__version__),
        "device": device_name(device),
    }


def device_name(device: str | torch.device) -> str:
    """The GPU's own name; of a CPU, the threads that torch uses."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return str(torch.cuda.get_device_name(kind))
    threads = torch.get_num_threads()
    return f"{kind.type.upper()} ({threads} thread{'s' if threads > 1 else ''})"


def _processor() -> str:
    """The kernel's name for it where there is one: `platform` often knows the architecture alone."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} ({platform.machine()})"
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "memory unknown"


def commit() -> str:
    """The short hash, with a + where tracked files differ from it; a copy without git has none."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],  # noqa: S607
            cwd=folder, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"
