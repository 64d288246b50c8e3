"""The same work for many patients, in this process or in several."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import TypeVar

Given, Made = TypeVar("Given"), TypeVar("Made")


def each(make: Callable[[Given], Made], given: Sequence[Given], *, workers: int = 1) -> Iterator[Made]:
    """`make` of every item, in order, one by one; the result does not depend on `workers`.

    Processes are not forked from this one: the caller may hold threads that a fork would copy in the middle of their
    work. On Linux they are forked from a server that has imported what `make` needs and done nothing since: importing
    torch takes seconds, and is done once. Elsewhere each starts anew.
    """
    n = min(workers, len(given))
    if n <= 1:
        yield from map(make, given)
        return
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([_module_of(make)])  # of no effect once the server runs
    pool = ProcessPoolExecutor(n, context, initializer=_begin, initargs=(dict(os.environ),))
    try:
        yield from pool.map(make, given)
    finally:
        pool.shutdown(cancel_futures=True)


def _module_of(make: Callable) -> str:
    while isinstance(make, partial):
        make = make.func
    return make.__module__


def _begin(environment: Mapping[str, str]) -> None:
    """The caller's environment as it is now (a server has the one of its start), and an end when the caller has one: a
    process that was killed cannot send its helpers home."""
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_leave_with, args=(parent_process(),), daemon=True).start()


def _leave_with(caller: BaseProcess) -> None:
    caller.join()
    os._exit(1)
