"""Batches brought to the device, prepared by threads some steps ahead where making one takes time.

A batch is a function of its step, so who prepares it, and when, cannot change it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from stpath_core import ranks

MOST = 16  # threads; each is in Python for a part of its time, and Python runs one of them at a time


def spare_cores() -> int:
    """Threads that may prepare batches beside the training one: the cores this process may use, but one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, max(1, cores - 1))


def batches(batch_at: Callable[[int], Any], steps: range, device: torch.device, *, workers: int = 0) -> Iterator[Any]:
    """batch_at(step) of each step on the device, in order; with workers, threads are up to two batches each ahead.

    An error in batch_at is raised when its step is reached. On a GPU copies start from pinned memory and are not waited
    for, and what batch_at itself does there runs beside the training, on a stream of its own. Of several processes each
    gets its share of the rows.
    """
    if workers == 0:
        for step in steps:
            yield moved(_mine(batch_at(step)), device)
        return

    beside = torch.cuda.Stream(device) if device.type == "cuda" else None
    if beside is not None:
        beside.wait_stream(torch.cuda.current_stream(device))  # what batch_at reads may still be on its way

    def make(step: int) -> tuple[Any, Any]:
        if beside is None:
            return _mine(batch_at(step)), None
        with torch.cuda.stream(beside):
            batch = _each(_mine(batch_at(step)), Tensor.pin_memory)
            return batch, beside.record_event()

    todo, waiting = iter(steps), deque()
    pool = ThreadPoolExecutor(workers, "batches")
    try:
        waiting.extend(pool.submit(make, step) for step in islice(todo, 2 * workers))
        while waiting:
            batch, made = waiting.popleft().result()
            waiting.extend(pool.submit(make, step) for step in islice(todo, 1))
            if made is not None:
                _take_over(batch, made, device)
            yield moved(batch, device)
    finally:
        pool.shutdown(cancel_futures=True)
        if beside is not None:
            beside.synchronize()  # nothing reads what is given back now


def _take_over(batch: Any, made: Any, device: torch.device) -> None:
    """Let the training's stream wait for a batch of another one, and keep its memory until the training is done."""
    mine = torch.cuda.current_stream(device)
    mine.wait_event(made)
    for value in [batch, *(vars(batch).values() if dataclasses.is_dataclass(batch) else ())]:
        if isinstance(value, Tensor) and value.is_cuda:
            value.record_stream(mine)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch on the device: a tensor, a dataclass of tensors, or anything with a method `to`."""
    if not isinstance(batch, Tensor) and not dataclasses.is_dataclass(batch):
        return batch.to(device)
    if device.type != "cuda":
        return batch.to(device)
    return _each(batch, lambda v: _to_cuda(v, device))


def _to_cuda(value: Tensor, device: torch.device) -> Tensor:
    value = value.to(device, non_blocking=True)
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _each(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A batch with its tensors changed; those on a GPU already are left alone by `pin_memory` and `to` alike."""
    if isinstance(batch, Tensor):
        return batch if batch.is_cuda else change(batch)
    if not dataclasses.is_dataclass(batch):
        return batch
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    tensors = {k: change(v) for k, v in values.items() if isinstance(v, Tensor) and not v.is_cuda}
    return dataclasses.replace(batch, **tensors) if tensors else batch


def _mine(batch: Any) -> Any:
    """This process's rows of a batch."""
    if ranks.world() == 1:
        return batch
    return batch[ranks.share(len(batch))] if isinstance(batch, Tensor) else batch.share()
