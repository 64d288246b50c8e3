"""Several processes that train one network (`torchrun`): who I am, my share of a batch, and means over all.

Each process makes the whole batch of a step, which depends on the step alone, takes every n-th row of it, and the
gradients are averaged: for a loss that is a mean over rows this is the step of one process. What is not: batch
normalisation takes its statistics over all processes on GPUs and over each share on CPUs (torch has no other there);
Dice and the masked gradient loss of nuclei are ratios over a share; what is drawn at random (dropout, a latent) is
drawn by each for itself. A contrastive loss sees the whole batch through `gathered`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stpath_core.errors import InputError
from stpath_core.io.files import only_one

_ALONE = [0]  # depth of `alone` blocks


def started() -> bool:
    """Whether a group of processes was begun, be this one alone at the moment or not."""
    return dist.is_available() and dist.is_initialized()


def world() -> int:
    """How many processes train together; 1 outside of torchrun and within `alone`."""
    return 1 if _ALONE[0] else processes()


def processes() -> int:
    """How many there are, also within `alone`."""
    return dist.get_world_size() if started() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if started() else 0


@contextmanager
def together(device: torch.device) -> Iterator[torch.device]:
    """A block in which the processes of torchrun are one group; gives the device of this one. Without torchrun: itself.

    The backend is NCCL on GPUs, one GPU a process, and Gloo on CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def only_training(folder: str | Path) -> Iterator[None]:
    """A block in which no other training writes to `folder` (`only_one`): the first process holds it for all of this
    one, and where it cannot, all raise the same InputError before any has written."""
    with ExitStack() as held:
        refused = {}
        if rank() == 0:
            try:
                held.enter_context(only_one(folder))
            except InputError as error:
                refused = {"why": str(error)}
        refused = collected(refused)
        if refused:
            raise InputError(refused["why"])
        yield


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process trains for itself, such as a fold of its own."""
    _ALONE[0] += 1
    try:
        yield
    finally:
        _ALONE[0] -= 1


def share(n: int) -> slice:
    """Which of the n rows of a batch are this process's: every world-th; a rest that not all can have is left out."""
    size = world()
    if n < size:
        msg = f"a batch of {n} cannot be shared by {size} processes; give a larger batch_size, or fewer processes"
        raise InputError(msg)
    return slice(rank(), n - n % size, size)


def alike(model: nn.Module) -> None:
    """Give every process the weights and buffers of the first; batch normalisation over all processes on GPUs."""
    if world() == 1:
        return
    if next(model.parameters()).is_cuda:
        from timm.layers import convert_sync_batchnorm  # knows timm's layers that are norm and activation in one

        convert_sync_batchnorm(model)  # in place: no network of ours is a bare BatchNorm
    for value in model.state_dict().values():
        dist.broadcast(value, 0)


def average_gradients(model: nn.Module) -> None:
    """The mean over processes of every gradient, in one message. Each lies in memory as its parameter does: a fused
    optimiser goes through both as they lie."""
    given = [p for p in model.parameters() if p.requires_grad]
    if world() == 1 or not given:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in given])
    dist.all_reduce(flat)
    flat /= world()
    for p, mean in zip(given, flat.split([p.numel() for p in given]), strict=True):
        p.grad = torch.empty_like(p, requires_grad=False).copy_(mean.view_as(p))


def average_buffers(model: nn.Module) -> None:
    """The mean over processes of running statistics, so that all judge with one network."""
    if world() == 1:
        return
    for value in model.buffers():
        if value.is_floating_point():
            dist.all_reduce(value)
            value /= world()


def mean_of(values: Tensor) -> Tensor:
    """(k,) the mean over processes."""
    if world() > 1:
        dist.all_reduce(values)
        values /= world()
    return values


def collected(mine: dict) -> dict:
    """The entries of all processes, in each of them."""
    if not started():
        return mine
    parts: list[dict] = [{} for _ in range(processes())]
    dist.all_gather_object(parts, mine)
    return {name: value for part in parts for name, value in part.items()}


class _Gathered(torch.autograd.Function):
    """Rows of all processes, one process after the other; a gradient comes back to the process that sent the row."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(parts, rows.contiguous())
        ctx.n = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)  # every process took the same loss: `average_gradients` divides by their number
        return total[rank() * ctx.n : (rank() + 1) * ctx.n]


def gathered(rows: Tensor) -> Tensor:
    """(n, ...) of this process -> (n * world, ...) of all, differentiable; itself where one process trains."""
    return rows if world() == 1 else _Gathered.apply(rows)
