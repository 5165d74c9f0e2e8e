"""Whoever waits for what never ends goes on in time, and leaves nothing behind that could be stopped."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.images.patience import Patience


@pytest.fixture
def patience() -> Iterator[Patience]:
    opened = Patience()
    yield opened
    opened.close()


def companions() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "patience"]


def test_results_and_errors_come_through(patience: Patience) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: patience.call(lambda: n * n, 30), range(100))) == [n * n for n in range(100)]
    with pytest.raises(ZeroDivisionError):
        patience.call(lambda: 1 // 0, 30)


def test_a_call_that_is_stuck_is_left_behind_and_the_next_is_served(patience: Patience) -> None:
    stuck = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        patience.call(stuck.wait, 0.05)
    assert patience.call(lambda: "next", 30) == "next"
    assert time.monotonic() - started < 20
    left, serving = companions()
    stuck.set()
    left.join(timeout=20)
    assert companions() == [serving], "what was stuck ends once it can"


def test_a_time_out_of_the_call_itself_is_no_reason_to_leave_it(patience: Patience) -> None:
    def work() -> None:
        raise TimeoutError("the call's own")

    patience.call(lambda: None, 30)
    before = companions()
    with pytest.raises(TimeoutError, match="the call's own"):
        patience.call(work, 30)
    patience.call(lambda: None, 30)
    assert companions() == before


def test_companions_go_when_it_is_closed(patience: Patience) -> None:
    patience.call(lambda: None, 30)
    (companion,) = companions()
    patience.close()
    companion.join(timeout=20)
    assert companions() == []
