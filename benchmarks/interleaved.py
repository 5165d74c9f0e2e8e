"""Times of several pieces of work whose ratios count: measured in turns, in one process, on one machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Of the times of one piece of work to those of another, round by round."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    count: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}–{self.high:.3f}, n {self.count})"


def times_in_turns(
    work: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device, wall: bool = False
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round: every round has all of them, in an order that turns with it.

    Each runs once unmeasured first. The clock is `clock`; wall: the wall's in any case, for work in several threads.
    """
    now = time.perf_counter if wall and device.type == "cpu" else clock(device)
    for piece in work.values():
        piece()
    taken: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned if number % 2 == 0 else turned[::-1]:
            started = now()
            work[name]()
            taken[name].append(now() - started)
    return taken


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> Ratio:
    """`name` ÷ `base`, of the times of the same round."""
    ratios = sorted(mine / other for mine, other in zip(times[name], times[base], strict=True))
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(median=median, low=low, high=high, count=len(ratios))


def clock(device: torch.device) -> Callable[[], float]:
    """Wall clock once the GPU has finished; on a CPU with one thread the process's own time.

    The latter is not lengthened by what else the machine does; with several threads it would add them up.
    """
    if device.type == "cuda":

        def now() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return now
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def clock_name(device: torch.device) -> str:
    """What `clock` reads, for the line above a table."""
    return "CPU time" if clock(device) is time.process_time else "wall time"
