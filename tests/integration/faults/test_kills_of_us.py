"""Our own process, killed with SIGKILL before each of its effects on the world and at random moments.

After each kill the command is run again, and must end where the undisturbed run ended.
"""

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.label_studio import LabelStudio
from tests.integration.faults.bench import CHUNK, DEFAULTS, Bench
from tests.integration.faults.changes import people_work
from tests.integration.faults.commands import Ended
from tests.integration.faults.proxy import FaultProxy, Rule, cut_before
from tests.integration.faults.test_bad_answers import PAGE
from tests.integration.faults.world import queued

SEED = 20260301
MOST = 14
"""Effects of one command before which it is killed, evenly chosen among those that others can see."""
RANDOM_KILLS = 4
"""Of each command."""
DECIDING = re.compile(r"commit|rename|heard|send (POST|PATCH|DELETE)")


def moments(effects: Sequence[str]) -> list[tuple[str, int]]:
    """Which effects to die before, by name and number."""
    total, seen = Counter(effects), Counter[str]()
    deciding = []
    for effect in effects:
        seen[effect] += 1
        # How many commits the images take depends on how they come in: the later ones may not be there next time.
        if DECIDING.match(effect) and (not effect.startswith("commit") or seen[effect] <= (total[effect] + 1) // 2):
            deciding.append((effect, seen[effect]))
    if len(deciding) <= MOST:
        return deciding
    return [deciding[i * (len(deciding) - 1) // (MOST - 1)] for i in range(MOST)]


def kills(undisturbed: Ended) -> Iterator[tuple[str, dict[str, Any]]]:
    """(in words, how to be killed) for one command: before its effects, then at random moments."""
    for effect, number in moments(undisturbed.effects):
        yield f"before effect {effect!r}, number {number}", {"die_at": (effect, number)}
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
    for moment, how in kills(undisturbed):
        home = bench.home(base)
        killed = bench.run("pull", home, **how)
        assert killed.killed or "kill_after" in how, f"{moment}: {killed.err}"
        bench.complete("pull", home)
        assert bench.pulled(home) == expected, moment
        trials["kills of our process"] += killed.killed
        shutil.rmtree(home)
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
    assert len(expected.tasks) == len(expected.asked) > 2 * CHUNK
    for number, (moment, how) in enumerate(kills(undisturbed)):
        home, title = bench.home(base), f"killed {number}"
        killed = bench.run("push", home, title=title, **how)
        assert killed.killed or "kill_after" in how, f"{moment}: {killed.err}"
        bench.complete("push", home, title=title)
        found = queued(bench.world, home, door, title)
        assert found == expected, f"{moment}: {found.unlike(expected)}"
        trials["kills of our process"] += killed.killed
        shutil.rmtree(home)


def test_a_first_pull_goes_on_after_the_last_page_that_was_kept(
    bench: Bench, proxy: FaultProxy, trials: Counter[str]
) -> None:
    small = {**DEFAULTS, "pipeline.label_studio.connection:LabelStudioConfig.__init__": {"page_size": 10}}

    def pages(home: Path, *rules: Rule) -> int:
        with proxy.rule(*rules):
            ended = bench.run("pull", home, url=proxy.url, defaults=small)
            assert ended.code == 0 or rules, ended.err
            return proxy.requests("GET", PAGE)

    whole, home, kept = pages(bench.home()), bench.home(), 4
    begun = pages(home, Rule(toxic=cut_before, path=PAGE, nth=kept + 1, times=10_000))
    assert kept < begun < whole
    assert pages(home) == whole - kept
    trials["bad answers"] += begun - kept
