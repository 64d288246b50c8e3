"""The same work for many patients, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Given, Made = TypeVar("Given"), TypeVar("Made")


def each(make: Callable[[Given], Made], given: Sequence[Given], *, workers: int = 1) -> list[Made]:
    """`make` of every item, in order; the result does not depend on `workers`.

    Processes are spawned, not forked: the caller may hold threads that a fork would copy in the middle of their work.
    """
    n = min(workers, len(given))
    if n <= 1:
        return [make(item) for item in given]
    with ProcessPoolExecutor(n, get_context("spawn")) as pool:
        return list(pool.map(make, given))
