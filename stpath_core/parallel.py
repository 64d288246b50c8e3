"""The same work for many patients or tiles: in this process, in several, or on the workers of a Dask scheduler."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, TypeVar

from stpath_core.errors import InputError, StpathError

if TYPE_CHECKING:
    from distributed import Client

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


def on_scheduler(make: Callable[[Given], Made], given: Iterable[Given], *, scheduler: Any = None) -> Iterator[Made]:
    """`make` of every item, in order; the result does not depend on where.

    given : may be a generator; a few items a worker are taken from it ahead, so that memory stays bounded.
    scheduler : None or "" for this process; else the address of a Dask scheduler, a cluster, or a client. `make` and
    the items travel: keep them small, and name files that all workers see. Work of a worker that ends is done again by
    another; StpathError where that happens time and again.
    """
    if scheduler in (None, ""):
        yield from map(make, given)
        return
    from distributed import KilledWorker

    with dask_client(scheduler) as client:
        client.wait_for_workers(1)  # those of a queue come when the queue lets them
        ahead: deque = deque()
        sent = client.submit(_itself, make, pure=False)  # once: it may carry a network. As work: it can be done again
        try:
            for item in given:
                ahead.append(client.submit(_call, sent, item, pure=False))
                if len(ahead) > 2 * max(1, sum(client.nthreads().values())):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except KilledWorker as error:
            msg = f"workers ended over one piece of work ({' '.join(str(error).split())[:120]}): give them more memory"
            raise StpathError(msg + ", or smaller tiles") from error
        finally:
            for future in ahead:
                future.cancel()


def _itself(make: Callable) -> Callable:
    return make


def _call(make: Callable[[Given], Made], item: Given) -> Made:
    return make(item)


@contextmanager
def dask_client(scheduler: Any) -> Iterator[Client]:
    """A client of a scheduler: of an address or a cluster, closed at the end; or the one that is given, left open."""
    from distributed import Client

    if isinstance(scheduler, Client):
        yield scheduler
        return
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError, TypeError) as error:
        msg = (
            f"no Dask scheduler answers at {scheduler!r} ({' '.join(str(error).split())[:120]}); start one with `dask "
        )
        raise InputError(msg + "scheduler`, or leave --scheduler out to run here") from error
    with client:
        yield client


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
