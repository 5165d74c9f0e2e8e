"""The Label Studio process, killed with SIGKILL over a request of ours; then started again on the same data.

One life of the server for each of the four: it takes most of the time here.
"""

from collections import Counter

import pytest

from pipeline.label_studio import LabelStudio
from tests.integration.faults.bench import IMPATIENT, Bench
from tests.integration.faults.changes import people_work
from tests.integration.faults.proxy import FaultProxy, Rule, killed_over_it
from tests.integration.faults.server import KillableServer
from tests.integration.faults.test_bad_answers import IMAGE, IMPORT, PAGE
from tests.integration.faults.world import queued


@pytest.mark.parametrize(
    ("over", "rule"),
    {
        "a full pull": {"path": PAGE, "nth": 3},
        "an image": {"path": IMAGE, "nth": 20},
    }.items(),
)
def test_a_first_pull_outlives_the_server(
    over: str, rule: dict[str, object], bench: Bench, proxy: FaultProxy, mortal: KillableServer, trials: Counter[str]
) -> None:
    home, undisturbed = bench.home(), bench.home()
    bench.complete("pull", undisturbed)
    with proxy.rule(Rule(toxic=killed_over_it(mortal.kill), **rule)):  # type: ignore[arg-type]
        ended = bench.run("pull", home, url=proxy.url, from_disk=False, patience_s=IMPATIENT)
        assert ended.complaint
        assert len(proxy.faults) == 1, over
    mortal.start()
    bench.complete("pull", home)
    assert bench.pulled(home) == bench.pulled(undisturbed)
    trials["kills of the server"] += 1


def test_a_pull_of_what_changed_outlives_the_server(
    bench: Bench, door: LabelStudio, proxy: FaultProxy, mortal: KillableServer, trials: Counter[str]
) -> None:
    home = bench.home()
    bench.complete("pull", home)
    people_work(bench.world, door, seed=2)
    undisturbed = bench.home(home)
    bench.complete("pull", undisturbed)
    with proxy.rule(Rule(toxic=killed_over_it(mortal.kill), path=PAGE)):
        ended = bench.run("pull", home, url=proxy.url, patience_s=IMPATIENT)
        assert ended.complaint
        assert len(proxy.faults) == 1
    mortal.start()
    bench.complete("pull", home)
    assert bench.pulled(home) == bench.pulled(undisturbed)
    trials["kills of the server"] += 1


def test_a_push_outlives_the_server_and_asks_nothing_twice(
    bench: Bench, proxy: FaultProxy, mortal: KillableServer, trials: Counter[str]
) -> None:
    base = bench.ready_to_push()
    undisturbed = bench.home(base)
    bench.complete("push", undisturbed, title="server unharmed")
    with proxy.rule(Rule(toxic=killed_over_it(mortal.kill), method="POST", path=IMPORT, nth=3)):
        ended = bench.run("push", base, title="server killed", url=proxy.url, patience_s=IMPATIENT)
        assert ended.complaint
        assert len(proxy.faults) == 1
    mortal.start()
    bench.complete("push", base, title="server killed")
    with mortal.door() as door:
        expected = queued(bench.world, undisturbed, door, "server unharmed")
        assert queued(bench.world, base, door, "server killed") == expected
    trials["kills of the server"] += 1
