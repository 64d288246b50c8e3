"""The same work for many patients, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Given, Made = TypeVar("Given"), TypeVar("Made")


def each(make: Callable[[Given], Made], given: Sequence[Given], *, workers: int = 1) -> Iterator[Made]:
    """`make` of every item, in order, one by one; the result does not depend on `workers`.

    Processes are spawned, not forked: the caller may hold threads that a fork would copy in the middle of their work.
    """
    n = min(workers, len(given))
    if n <= 1:
        yield from map(make, given)
        return
    pool = ProcessPoolExecutor(n, get_context("spawn"))
    try:
        yield from pool.map(make, given)
    finally:
        pool.shutdown(cancel_futures=True)
