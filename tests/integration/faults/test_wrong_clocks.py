"""Our clock, or Label Studio's, is hours off: what people do meanwhile arrives all the same.

Both processes run under libfaketime, each with a clock of its own that a file sets while they run.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.stack.install import LabelStudioInstall
from tests.integration.faults.bench import Bench
from tests.integration.faults.changes import people_work
from tests.integration.faults.commands import commands
from tests.integration.faults.server import KillableServer, killable
from tests.integration.faults.world import World, complete_round, queued

RIGHT = "+0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """The clock of the processes that were started with its environment."""

    file: Path

    def set(self, offset: str) -> None:
        """Such as `+2h`; `RIGHT` for no offset."""
        self.file.write_text(f"{offset}\n")

    @property
    def environment(self) -> dict[str, str]:
        spec = importlib.util.find_spec("libfaketime")
        assert spec is not None
        assert spec.origin is not None
        library = Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Clocks:
    """Whose clock is whose."""

    ours: Clock
    theirs: Clock
    server: KillableServer
    bench: Bench


@pytest.fixture(scope="module")
def clocks(label_studio_install: LabelStudioInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocks]:
    """A server and a launcher whose clocks can be set, and a world that begins two hours ago."""
    folder = tmp_path_factory.mktemp("clocks")
    ours, theirs = Clock(file=folder / "ours"), Clock(file=folder / "theirs")
    ours.set(RIGHT)
    theirs.set("-2h")
    with (
        killable(label_studio_install, folder, theirs.environment) as server,
        commands(folder / "commands", environment=ours.environment) as fasten,
        server.door() as door,
    ):
        yield Clocks(
            ours=ours, theirs=theirs, server=server, bench=Bench(World(server, door), fasten, folder / "homes")
        )


# Label Studio's clock only ever goes forward from one to the next.
@pytest.mark.parametrize(("number", "ours", "theirs"), [(0, RIGHT, "-2h"), (1, "+2h", RIGHT)])
def test_pull_and_push_with_clocks_apart_see_everything_and_ask_once(
    number: int, ours: str, theirs: str, clocks: Clocks, trials: Counter[str]
) -> None:
    bench = clocks.bench
    clocks.ours.set(ours)
    clocks.theirs.set(theirs)
    home = bench.home()
    bench.complete("pull", home)
    with clocks.server.door() as door:
        people_work(bench.world, door, seed=number)
        bench.complete("pull", home)
        fresh = bench.home()
        clocks.ours.set(RIGHT)
        bench.complete("pull", fresh)
        assert bench.pulled(home) == bench.pulled(fresh)
        complete_round(bench.world, home)
        other = bench.home(home)
        bench.complete("push", other, title=f"clocks right {number}")
        clocks.ours.set(ours)
        bench.complete("push", home, title=f"clocks apart {number}")
        expected = queued(bench.world, other, door, f"clocks right {number}")
        assert queued(bench.world, home, door, f"clocks apart {number}") == expected
    trials["wrong clocks"] += 1


def test_what_happens_after_the_servers_clock_was_set_back_arrives_with_the_next_pull(
    clocks: Clocks, trials: Counter[str]
) -> None:
    bench = clocks.bench
    clocks.ours.set(RIGHT)
    clocks.theirs.set("+5h")
    home = bench.home()
    with clocks.server.door() as door:
        people_work(bench.world, door, seed=4)
        bench.complete("pull", home)
        clocks.theirs.set("+3h")
        for seed in (5, 6):  # the second time the newest changes are still those of before the clock was set back
            people_work(bench.world, door, seed=seed)
            bench.complete("pull", home)
            fresh = bench.home()
            bench.complete("pull", fresh)
            assert bench.pulled(home) == bench.pulled(fresh)
            trials["wrong clocks"] += 1
