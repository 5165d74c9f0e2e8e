"""The mirror holds what Label Studio holds, however it got there, and reads no more than it must."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ServiceUnavailable
from pipeline.records import Chunk, Project, Recent
from pipeline.snapshot import catch_up as following
from pipeline.snapshot.catch_up import LAG, RECONCILE_AFTER, Source, catch_up
from pipeline.snapshot.mirror import Mirror
from tests.pipeline.snapshot.followed import PROJECT, START, Server, content, follow, kept, seven_tasks, truth


@pytest.fixture
def server() -> Server:
    return seven_tasks()


def test_a_first_load_reads_every_answered_task_once(server: Server, mirror: Mirror) -> None:
    read = follow(server, mirror)
    assert sorted(read) == [number for number, task in server.tasks.items() if task.annotations]
    assert content(mirror) == truth(server)


def test_a_project_that_looks_as_before_is_not_asked_for_anything(server: Server, mirror: Mirror) -> None:
    follow(server, mirror, state=server.state)
    generation = mirror.generation
    assert follow(server, mirror, state=server.state) == []
    assert not server.asked
    assert mirror.generation == generation


def test_only_what_changed_is_read(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    server.now += 2 * LAG
    server.edit(1, label="dog")
    assert follow(server, mirror) == [1]
    assert server.asked == {"listing": 1, "by id": 1, "count": 1}
    assert content(mirror) == truth(server)


def test_what_lies_within_the_lag_is_listed_and_not_read_again(server: Server, mirror: Mirror) -> None:
    server.now -= 2 * LAG
    server.add("cat")
    follow(server, mirror)
    assert follow(server, mirror) == []
    assert server.asked["listing"] == 1


@pytest.mark.parametrize("deed", ["edit", "skip", "star", "take back", "delete", "add", "answer", "bare"])
def test_whatever_people_do_arrives(server: Server, mirror: Mirror, deed: str) -> None:
    follow(server, mirror, state=server.state)
    bare = next(number for number, task in server.tasks.items() if not task.annotations)
    deeds: dict[str, Callable[[], object]] = {
        "edit": lambda: server.edit(1, label="dog"),
        "skip": lambda: server.say(1, "", skipped=True),
        "star": lambda: server.edit(1, ground_truth=True),
        "take back": lambda: server.take_back(1),
        "delete": lambda: server.delete(1),
        "add": lambda: server.add("cat"),
        "answer": lambda: server.say(bare, "cat"),
        "bare": lambda: server.add(),
    }
    deeds[deed]()
    follow(server, mirror, state=server.state)
    assert content(mirror) == truth(server)
    starred = {number for number, task in server.tasks.items() if any(one.ground_truth for one in task.annotations)}
    assert {each.task_id for _, said in mirror.samples() for each in said if each.answer.ground_truth} == starred


def test_a_deleted_task_is_found_by_counting_and_costs_one_list(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    server.delete(3)
    assert follow(server, mirror) == []
    assert server.asked["listing"] == 2
    assert content(mirror) == truth(server)


def test_a_first_load_that_was_cut_off_goes_on_where_it_stopped(server: Server, mirror: Mirror) -> None:
    server.dies_after = 2
    with pytest.raises(ServiceUnavailable):
        follow(server, mirror)
    assert (len(server.read), server.asked["resumed"]) == (4, 0)
    server.dies_after = None
    read = follow(server, mirror)
    assert (len(read), server.asked["resumed"]) == (2, 1)
    assert content(mirror) == truth(server)


def test_a_long_load_leaves_room_for_other_work(
    server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_TASKS_APART", 3)
    here: list[int] = []
    source = Source(project=PROJECT, origin="labels", reading="r")
    seen = lambda: here.append(mirror.counts(1)[0])  # noqa: E731
    catch_up(server, mirror, source, kept, mark="ours", meanwhile=seen, now=START)
    assert here == [4, 6], "chunks of two: after the second, and after the last"


def test_a_first_load_during_which_nothing_happens_ends_with_one_question(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    assert server.asked == {"newest": 1, "load": 3, "resumed": 0, "recent": 1}
    server.edit(1, label="eel")
    assert follow(server, mirror) == [1], "the cursor is where it was"


def _take_back_and_answer(server: Server) -> None:
    server.take_back(1)
    server.say(13, "cat")


def _delete_and_add(server: Server) -> None:
    server.delete(1)
    server.add("cat")


DEEDS: dict[str, Callable[[Server], object]] = {
    "edit": lambda server: server.edit(1, label="eel"),
    "skip": lambda server: server.say(1, "", skipped=True),
    "take back": lambda server: server.take_back(1),
    "delete": lambda server: server.delete(1),
    "add": lambda server: server.add("cat"),
    "answer": lambda server: server.say(13, "cat"),
    "take back and answer": _take_back_and_answer,
    "delete and add": _delete_and_add,
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("shown", [0, 2, 20])
@pytest.mark.parametrize("when", ["after chunk 1", "after chunk 3", "before the question"])
def test_what_happens_during_a_first_load_arrives_with_it(
    server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, deed: str, shown: int, when: str
) -> None:
    server.shown = shown
    asked, chunk = server.recent, server._chunk
    done: list[object] = []

    def early(ids: list[int]) -> Chunk:
        read = chunk(ids)
        if when == f"after chunk {server.asked['load']}" and not done:
            done.append(DEEDS[deed](server))
        return read

    def late(project: Project) -> Recent:
        if when == "before the question":
            done.append(DEEDS[deed](server))
        return asked(project)

    monkeypatch.setattr(server, "_chunk", early)
    monkeypatch.setattr(server, "recent", late)
    follow(server, mirror)
    assert len(done) == 1
    assert content(mirror) == truth(server)


def test_where_the_question_after_a_first_load_is_not_answered_the_changes_are_read(
    server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_project: Project) -> Recent:
        raise ServiceUnavailable("gone")

    monkeypatch.setattr(server, "recent", gone)
    follow(server, mirror)
    assert (server.asked["listing"], server.asked["count"]) == (1, 1)
    assert content(mirror) == truth(server)


def test_what_changes_while_the_first_load_is_cut_off_arrives(server: Server, mirror: Mirror) -> None:
    server.dies_after = 2
    with pytest.raises(ServiceUnavailable):
        follow(server, mirror)
    server.dies_after = None
    server.edit(1, label="eel")
    server.delete(3)
    follow(server, mirror)
    assert content(mirror) == truth(server)


def test_what_was_changed_by_hand_arrives_with_the_next_comparison_of_everything(
    server: Server, mirror: Mirror
) -> None:
    follow(server, mirror)
    server.edit(1, label="eel")
    server.times[1] -= timedelta(days=1)
    follow(server, mirror, now=START + RECONCILE_AFTER / 2)
    assert content(mirror) != truth(server), "neither a later time nor a count shows it"
    follow(server, mirror, now=START + 2 * RECONCILE_AFTER)
    assert content(mirror) == truth(server)


@pytest.mark.parametrize("ours", [timedelta(days=-400), timedelta(days=400)])
def test_our_own_clock_decides_nothing(server: Server, mirror: Mirror, ours: timedelta) -> None:
    follow(server, mirror, now=START + ours)
    server.edit(1, label="eel")
    server.delete(3)
    assert follow(server, mirror, now=START + ours) == [1]
    assert content(mirror) == truth(server)


def test_another_way_of_reading_reads_everything_anew(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    assert len(follow(server, mirror, reading="other")) == 6


def test_a_project_in_another_role_is_read_anew(server: Server, mirror: Mirror) -> None:
    follow(server, mirror)
    source = Source(project=PROJECT, origin="audit", reading="r")
    server.read.clear()
    catch_up(server, mirror, source, kept, mark="ours", now=START)
    assert len(server.read) == 6
    assert {each.answer.origin for _, said in mirror.samples() for each in said} == {"audit"}


what_happens = st.lists(
    st.tuples(
        st.sampled_from(["add", "bare", "say", "skip", "edit", "take back", "delete", "wait", "cut", "follow"]),
        st.integers(0, 20),
    ),
    max_size=20,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(what_happens)
def test_the_mirror_ends_as_a_fresh_one(tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int]]) -> None:
    server, folder = Server(), tmp_path_factory.mktemp("mirror")
    with Mirror(folder / "long.sqlite") as long, Mirror(folder / "fresh.sqlite") as fresh:
        for deed, place in done:
            said = [number for number, task in sorted(server.tasks.items()) if task.annotations]
            some = sorted(server.tasks)[place % len(server.tasks)] if server.tasks else 0
            if deed == "add":
                server.add(("cat", "dog")[place % 2])
            elif deed == "bare":
                server.add()
            elif deed == "wait":
                server.now += LAG * place / 10
            elif deed in ("say", "skip") and some:
                server.say(some, "cat", skipped=deed == "skip")
            elif deed == "edit" and said:
                server.edit(said[place % len(said)], label=f"label {place}")
            elif deed == "take back" and said:
                server.take_back(said[place % len(said)])
            elif deed == "delete" and some:
                server.delete(some)
            elif deed == "cut":
                server.dies_after = place % 3
                with suppress(ServiceUnavailable):
                    follow(server, long, state=server.state)
                server.dies_after = None
            elif deed == "follow":
                follow(server, long, state=server.state)
                assert content(long) == truth(server)
        follow(server, long)
        follow(server, fresh)
        assert content(long) == content(fresh) == truth(server)


def test_nothing_is_under_way_once_a_pull_has_failed(
    server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Mirror, "put", full)
    with pytest.raises(OSError, match="full") as raised:
        follow(server, mirror)
    assert server.asked["load"] == 1
    assert not server.reading, raised.traceback  # which keeps alive what is not ended
