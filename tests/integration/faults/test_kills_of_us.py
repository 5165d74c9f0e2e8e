"""Our own process, killed with SIGKILL before each of its effects on the world and at random moments.

After each kill the command is run again, and must end where the undisturbed run ended.
"""

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipeline.label_studio import LabelStudio
from tests.integration.faults.bench import CHUNK, Bench
from tests.integration.faults.changes import people_work
from tests.integration.faults.commands import Ended
from tests.integration.faults.proxy import FaultProxy
from tests.integration.faults.world import queued

SEED = 20260301
MOST = 14
"""Effects of one command before which it is killed, evenly chosen among those that others can see."""
RANDOM_KILLS = 4
"""Of each command."""
DECIDING = re.compile(r"commit|rename|heard|send (POST|PATCH|DELETE)")


def moments(effects: Sequence[str]) -> list[int]:
    """Which effects to die before."""
    deciding = [number for number, effect in enumerate(effects, 1) if DECIDING.match(effect)]
    if len(deciding) <= MOST:
        return deciding
    return sorted({deciding[i * (len(deciding) - 1) // (MOST - 1)] for i in range(MOST)})


FEWER_EFFECTS = 8
"""Images come back in another order and in other groups each time: a run may end before the last effects of another."""


def kills(undisturbed: Ended) -> Iterator[tuple[str, dict[str, Any]]]:
    """(in words, how to be killed) for one command: before its effects, then at random moments."""
    for number in moments(undisturbed.effects):
        yield f"before effect {number}: {undisturbed.effects[number - 1]}", {"die_at": number}
    moment = random.Random(SEED)
    for _ in range(RANDOM_KILLS):
        seconds = undisturbed.seconds * moment.uniform(0.02, 0.6)
        yield f"after {seconds:.3f} s of {undisturbed.seconds:.3f} s (seed {SEED})", {"kill_after": seconds}


@pytest.mark.parametrize("what", ["full", "incremental"])
def test_a_pull_that_is_killed_anywhere_is_finished_by_the_next(
    what: str, bench: Bench, door: LabelStudio, trials: Counter[str]
) -> None:
    base = bench.home()
    if what == "incremental":
        bench.complete("pull", base)
        people_work(bench.world, door)
    home = bench.home(base)
    undisturbed = bench.complete("pull", home, watched=True)
    expected = bench.pulled(home)
    alive = 0
    for moment, how in kills(undisturbed):
        home = bench.home(base)
        killed = bench.run("pull", home, **how)
        assert killed.killed or killed.code == 0, f"{moment}: {killed.err}"
        bench.complete("pull", home)
        assert bench.pulled(home) == expected, moment
        trials["kills of our process"] += killed.killed
        alive += "die_at" in how and not killed.killed
        shutil.rmtree(home)
    assert alive <= FEWER_EFFECTS
    home = bench.home()
    bench.complete("pull", home)
    assert bench.pulled(home).snapshot_id == expected.snapshot_id, "what changed is not what is there"


def test_a_push_that_is_killed_anywhere_is_finished_by_the_next_and_asks_nothing_twice(
    bench: Bench, door: LabelStudio, trials: Counter[str]
) -> None:
    base = bench.ready_to_push()
    home = bench.home(base)
    undisturbed = bench.complete("push", home, title="undisturbed", watched=True)
    expected = queued(bench.world, home, door, "undisturbed")
    assert len(expected.tasks) == len(expected.asked) > 3 * CHUNK
    alive = 0
    for number, (moment, how) in enumerate(kills(undisturbed)):
        home, title = bench.home(base), f"killed {number}"
        killed = bench.run("push", home, title=title, **how)
        assert killed.killed or killed.code == 0, f"{moment}: {killed.err}"
        bench.complete("push", home, title=title)
        found = queued(bench.world, home, door, title)
        assert found == expected, f"{moment}: {found.unlike(expected)}"
        trials["kills of our process"] += killed.killed
        alive += "die_at" in how and not killed.killed
        shutil.rmtree(home)
    assert alive <= FEWER_EFFECTS


def test_a_first_pull_goes_on_after_the_last_page_that_was_kept(
    bench: Bench, proxy: FaultProxy, trials: Counter[str]
) -> None:
    def pages(home_options: dict[str, Any]) -> int:
        with proxy.rule():
            ended = bench.run("pull", url=proxy.url, **home_options)
            assert ended.killed or ended.code == 0, ended.err
            return proxy.requests("GET", r"/api/tasks/.*include=annotations")

    whole = pages({"home": bench.home()})
    home = bench.home()
    watched = bench.complete("pull", bench.home(), watched=True)
    last_page = [number for number, effect in enumerate(watched.effects, 1) if effect == "heard GET /api/tasks/"][-8]
    begun = pages({"home": home, "die_at": last_page})
    rest = pages({"home": home})
    assert 2 <= begun < whole
    assert rest <= whole - begun + 2, "one page that was being asked for, and what has changed since"
    trials["kills of our process"] += 1
