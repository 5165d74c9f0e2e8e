"""Work done by threads ahead of the one who asks for it: in order, bounded, and gone when that one is."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def work_ahead(function: Callable[[A], B], items: Iterable[A], *, threads: int, depth: int) -> Iterator[B]:
    """`function` of each item, in the items' order, with at most `depth` of them under way or waiting to be taken.

    Items are drawn by the taker's own thread. An error of `function` is raised where its result would have come; the
    threads end with the iteration, also where it is left early.
    """
    source = iter(items)
    ahead: deque[Future[B]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fasten-ahead")
    try:
        ahead.extend(pool.submit(function, item) for item in islice(source, depth))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
