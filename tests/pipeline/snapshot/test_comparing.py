"""What is gone is found with few questions, however many tasks there are."""

from dataclasses import replace

import pytest

from pipeline.snapshot import comparing
from pipeline.snapshot.catch_up import LAG
from pipeline.snapshot.mirror import Mirror
from tests.pipeline.snapshot.followed import Server, content, follow, truth


@pytest.fixture
def many(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Two hundred tasks that the mirror has; a range of five is listed."""
    monkeypatch.setattr(comparing, "FEW", 5)
    made = Server()
    for _ in range(200):
        made.add("cat")
    made.now += 2 * LAG
    follow(made, mirror)
    made.now += 2 * LAG
    made.add("cat")
    made.now += 2 * LAG
    follow(made, mirror)
    return made


@pytest.mark.parametrize("place", [0, 77, 200])
def test_a_deleted_task_among_many_is_found_by_halves(many: Server, mirror: Mirror, place: int) -> None:
    many.delete(sorted(many.tasks)[place])
    assert follow(many, mirror) == []
    assert content(mirror) == truth(many)
    assert many.asked["count"] <= 8
    assert many.listed <= 5 + 1, "the range, and what lies within the lag"


def test_an_annotation_that_went_without_a_time_is_found_by_halves(many: Server, mirror: Mirror) -> None:
    gone = sorted(many.tasks)[77]
    many.tasks[gone] = replace(many.tasks[gone], annotations=())
    assert follow(many, mirror) == []
    assert content(mirror) == truth(many)
    assert many.listed <= 5 + 3


def test_an_annotation_that_moved_to_another_task_without_a_time_is_kept(many: Server, mirror: Mirror) -> None:
    """As Label Studio's “Remove duplicated tasks” moves them."""
    first, second = sorted(many.tasks)[70:72]
    moved = many.tasks[second].annotations
    many.tasks[first] = replace(many.tasks[first], annotations=(*many.tasks[first].annotations, *moved))
    many.delete(second)
    follow(many, mirror)
    assert content(mirror) == truth(many)


@pytest.mark.parametrize("every", [2, 10, 60])
def test_many_deleted_tasks_are_found_with_few_questions(many: Server, mirror: Mirror, every: int) -> None:
    for number in sorted(many.tasks)[::every]:
        many.delete(number)
    follow(many, mirror)
    assert content(mirror) == truth(many)
    assert many.asked["count"] <= comparing.MOST_COUNTS + 1
    assert many.asked["listing"] <= comparing.MOST_COUNTS + 2
