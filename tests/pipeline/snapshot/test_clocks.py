"""A server's clock that was set back hides nothing, and our own decides nothing."""

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import ServiceUnavailable
from pipeline.snapshot.catch_up import LAG, reconciliation_is_due
from pipeline.snapshot.mirror import Mirror, mirror_path
from tests.pipeline.snapshot.followed import START, Server, content, follow, seven_tasks, truth


@pytest.fixture
def server() -> Server:
    return seven_tasks()


@pytest.mark.parametrize("hours", [1, 24 * 400])
def test_what_happens_after_the_servers_clock_was_set_back_arrives_at_once(
    server: Server, mirror: Mirror, hours: int
) -> None:
    follow(server, mirror, state=server.state)
    before = server.state
    server.now -= timedelta(hours=hours)
    server.edit(1, label="eel")
    assert server.state == before, "nothing that is asked first shows it"
    follow(server, mirror, state=server.state)
    assert content(mirror) == truth(server)
    server.edit(3, label="eel")
    assert follow(server, mirror, state=server.state) == [3]
    assert server.asked["listing"] == 1, "the cursor has gone back with the clock"
    server.now += timedelta(hours=2 * hours)
    follow(server, mirror, state=server.state)
    server.edit(5, label="eel")
    assert follow(server, mirror, state=server.state) == [5]
    assert content(mirror) == truth(server)


def test_a_pull_that_dies_before_it_has_compared_leaves_that_to_the_next(
    server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(server, mirror, state=server.state)
    server.now -= timedelta(hours=1)
    server.edit(1, label="eel")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.snapshot.comparing.Copy.compare", gone)
        with pytest.raises(ServiceUnavailable):
            follow(server, mirror, state=server.state)
    follow(server, mirror, state=server.state)
    assert content(mirror) == truth(server)


def gone(*_: object) -> None:
    raise ServiceUnavailable("gone")


def test_a_clock_that_is_set_back_by_less_than_the_lag_costs_nothing(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    server.now = max(server.times.values()) - LAG / 2
    server.edit(1, label="eel")
    assert follow(server, mirror) == [1]
    assert server.asked["listing"] == 1


def test_a_clock_that_was_set_back_during_the_first_load_hides_nothing(server: Server, mirror: Mirror) -> None:
    server.now -= timedelta(days=1)
    follow(server, mirror, state=server.state)
    server.edit(1, label="eel")
    follow(server, mirror, state=server.state)
    assert content(mirror) == truth(server)


def test_a_mirror_ahead_of_the_servers_clock_has_to_be_looked_at(server: Server, tmp_path: Path) -> None:
    with Mirror(mirror_path(tmp_path)) as opened:
        follow(server, opened, state=server.state)
    assert not reconciliation_is_due(tmp_path, START, there=server.now)
    assert reconciliation_is_due(tmp_path, START, there=server.now - timedelta(hours=1))
    with Mirror(mirror_path(tmp_path)) as opened:
        server.now -= timedelta(hours=1)
        follow(server, opened, state=server.state)
    assert reconciliation_is_due(tmp_path, START, there=server.now), "the newest change is yet to come"
