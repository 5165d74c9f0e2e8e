"""Work done ahead comes in order, never too far ahead, and ends with the one who takes it."""

import threading
from collections.abc import Iterator

import pytest

from fasten_model.images.ahead import work_ahead


def working_threads() -> int:
    return sum(thread.name.startswith("fasten-ahead") for thread in threading.enumerate())


def test_results_come_in_the_order_of_their_items_whoever_is_done_first() -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(30)
        if item == 1:
            second_done.set()
        return item * 10

    assert list(work_ahead(work, range(5), threads=2, depth=2)) == [0, 10, 20, 30, 40]


def test_no_more_items_are_drawn_than_the_depth_allows() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for item in range(100):
            drawn.append(item)
            yield item

    results = work_ahead(str, items(), threads=2, depth=3)
    for taken in range(1, 10):
        next(results)
        assert len(drawn) <= taken + 3


def test_an_error_comes_where_its_result_would_have_and_no_thread_stays() -> None:
    def work(item: int) -> int:
        return 6 // (3 - item)

    results = work_ahead(work, range(100), threads=2, depth=8)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert working_threads() == 0


def test_an_error_of_the_items_themselves_ends_the_threads_too() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(work_ahead(str, items(), threads=2, depth=4))
    assert working_threads() == 0


def test_one_who_leaves_early_leaves_no_thread() -> None:
    for _ in work_ahead(str, range(1000), threads=2, depth=4):
        assert working_threads() > 0
        break
    assert working_threads() == 0


def test_nothing_to_do_gives_nothing() -> None:
    assert list(work_ahead(str, [], threads=2, depth=4)) == []
