"""One measured figure of the data plane: what was done to how many, and the times it took."""

import statistics
from dataclasses import dataclass
from typing import Literal

Part = Literal["doors", "pull", "again", "push", "images", "tables"]
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Plain values, a row of the results file. What does not apply is None."""

    part: str
    """One of `Part`."""
    server: str
    """The database behind Label Studio."""
    size: int
    """Tasks, questions, images or rows that the work is about."""
    what: str
    """Name of the work, or `bare …` of what it is held against."""
    seconds: list[float]
    """Wall time of each round, in order; rounds of one (part, server, size) took turns."""
    requests: int | None = None
    """Sent to Label Studio in the last round."""
    received: int | None = None
    """Bytes of the bodies of its answers, as they came over the wire."""
    peak_mib: float | None = None
    """Peak resident set of the process that did it, started for it alone."""
    start_mib: float | None = None
    """Resident set of that process before the work, everything imported."""
    tail_s: float | None = None
    """Seconds from Label Studio's last answer to the end."""
    note: str = ""
    error: str | None = None
    load: float | None = None
    """The machine's load average over the minute before: above 2 or so on two cores, others were at work, too."""
    command: str = ""
    """The command line that measured it."""
    machine: str = ""
    code: str = ""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What the figure is of."""
        return self.part, self.server, self.size, self.what

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def spread(self, digits: int = 2) -> str:
        """Median seconds and, of several rounds, their range."""
        return spread(self.seconds, digits)


def spread(values: list[float], digits: int = 2) -> str:
    """“2.41 (2.30–2.55)”; the value alone where there is one."""
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
