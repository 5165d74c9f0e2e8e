"""429, 500, 502, time-outs, cut connections, slow drips and lost answers between us and the real server.

Each command runs through bad weather, and once more in fair weather; then everything is as if there had been none.
"""

from collections import Counter

import pytest

from pipeline.label_studio import LabelStudio
from tests.integration.faults import proxy as toxics
from tests.integration.faults.bench import CHUNK, IMPATIENT, OUT_OF_PATIENCE, Bench
from tests.integration.faults.changes import people_work
from tests.integration.faults.proxy import FaultProxy, Rule, Toxic, Weather
from tests.integration.faults.world import Pulled, queued

TOXICS: dict[str, Toxic] = {
    "429": toxics.status(429),
    "429 with Retry-After": toxics.status(429, retry_after=1),
    "500": toxics.status(500),
    "502": toxics.status(502),
    "a time-out": toxics.silence,
    "a cut before": toxics.cut_before,
    "a cut midway": toxics.cut_midway,
    "a slow drip": toxics.drip(pieces=10, seconds=0.5),
}
OUTAGES = TOXICS | {"a drip for ever": toxics.drip_for_ever}
PAGE = r"/api/tasks/.*include=annotations"
IMAGE = "/data/local-files/"
IMPORT = r"/api/projects/\d+/import"


def undisturbed_pull(bench: Bench) -> Pulled:
    """What a pull comes to where nothing is wrong."""
    home = bench.home()
    bench.complete("pull", home)
    return bench.pulled(home)


def test_a_pull_takes_bad_answers_of_each_kind_in_its_stride(
    bench: Bench, proxy: FaultProxy, trials: Counter[str]
) -> None:
    expected = undisturbed_pull(bench)
    # One request may fail twice, and is asked a third time.
    places = [("/api/projects/", 1), (PAGE, 1), (PAGE, 2), (PAGE, 4), (IMAGE, 2), (IMAGE, 5), (IMAGE, 8), (IMAGE, 11)]
    names = list(TOXICS)
    for turn in range(0, len(names), 3):
        turned = names[turn:] + names[:turn]
        rules = [Rule(toxic=TOXICS[name], path=path, nth=nth) for name, (path, nth) in zip(turned, places, strict=True)]
        home = bench.home()
        with proxy.rule(*rules):
            bench.complete("pull", home, url=proxy.url, from_disk=False, patience_s=IMPATIENT)
            assert len(proxy.faults) == len(rules)
        assert bench.pulled(home) == expected
        trials["bad answers"] += len(proxy.faults)


@pytest.mark.parametrize("where", [PAGE, IMAGE])
def test_a_pull_that_is_left_without_answers_says_so_in_one_line_and_the_next_goes_on(
    where: str, bench: Bench, proxy: FaultProxy, trials: Counter[str]
) -> None:
    expected = undisturbed_pull(bench)
    for name in ("502", "a time-out", "a cut midway", "a drip for ever"):
        home = bench.home()
        with proxy.rule(Rule(toxic=OUTAGES[name], path=where, nth=3, times=10_000)):
            ended = bench.run("pull", home, url=proxy.url, from_disk=False, patience_s=OUT_OF_PATIENCE)
            assert "127.0.0.1" in ended.complaint, name
        bench.complete("pull", home)
        assert bench.pulled(home) == expected, name
        trials["bad answers"] += len(proxy.faults)


def test_pulls_in_bad_weather_come_to_the_same(
    bench: Bench, door: LabelStudio, proxy: FaultProxy, trials: Counter[str]
) -> None:
    home = bench.home()
    bench.complete("pull", home)
    people_work(bench.world, door)
    with proxy.rule(Weather(toxics=[*TOXICS.values(), toxics.cut_after], share=0.2, seed=1)):
        for _ in range(2):
            ended = bench.run("pull", home, url=proxy.url, from_disk=False, patience_s=IMPATIENT)
            assert ended.code == 0 or ended.complaint
    bench.complete("pull", home)
    assert bench.pulled(home).snapshot_id == undisturbed_pull(bench).snapshot_id
    trials["bad answers"] += len(proxy.faults)


LOST: dict[str, tuple[Rule | Weather, ...]] = {
    "two imports' answers are lost": (Rule(toxic=toxics.cut_after, method="POST", path=IMPORT, nth=1, times=2),),
    "an import never arrives": (Rule(toxic=toxics.cut_before, method="POST", path=IMPORT, nth=2),),
    "an import is answered with 500": (Rule(toxic=TOXICS["500"], method="POST", path=IMPORT),),
    "an import is not answered in time": (Rule(toxic=toxics.silence, method="POST", path=IMPORT, nth=2),),
    "an import arrives too late": (Rule(toxic=toxics.answered_late, method="POST", path=IMPORT, nth=2),),
    "a new project's answer is lost": (Rule(toxic=toxics.cut_after, method="POST", path=r"/api/projects/$"),),
    "no look-up after it": (
        Rule(toxic=toxics.cut_after, method="POST", path=IMPORT, nth=2),
        Rule(toxic=TOXICS["502"], path="push_key", nth=4, times=10_000),
    ),
    "bad weather": (Weather(toxics=[toxics.cut_midway, toxics.cut_after], share=0.1, seed=4),),
}


def test_a_push_whose_answers_are_lost_asks_everything_once(
    bench: Bench, door: LabelStudio, proxy: FaultProxy, trials: Counter[str]
) -> None:
    base = bench.ready_to_push()
    home = bench.home(base)
    bench.complete("push", home, title="in fair weather")
    expected = queued(bench.world, home, door, "in fair weather")
    assert len(expected.tasks) > 2 * CHUNK
    for name, rules in LOST.items():
        home = bench.home(base)
        with proxy.rule(*rules):
            ended = bench.run("push", home, title=name, url=proxy.url, patience_s=IMPATIENT)
            assert ended.code == 0 or ended.complaint
            assert proxy.faults, name
        bench.complete("push", home, title=name)
        found = queued(bench.world, home, door, name)
        assert found == expected, f"{name}: {found.unlike(expected)}"
        trials["bad answers"] += len(proxy.faults)
