"""The one training loop: schedule, clipping, mixed precision, history, early stop, resume, one hook."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stpath_core import ranks
from stpath_core.errors import InputError
from stpath_core.io.files import atomic_path
from stpath_core.prefetch import batches

StepLoss = Callable[[nn.Module, Any], dict[str, Tensor]]  # its "loss" is minimised, all entries are recorded
READ_EVERY = 50  # steps whose records are read from a GPU at once: each reading waits for all that was queued
Progress = Callable[[Iterable], Iterable]  # wraps what is iterated: `iter`, or stpath_core.progress.track


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; a device that cannot hold a number here is an InputError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"device {name!r} is not one torch knows; use auto, cpu or cuda"
        raise InputError(msg) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        msg = f"device {name!r} was asked for and this torch sees no GPU; use device=cpu, or see `stpath doctor`"
        raise InputError(msg)
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # of many kinds: each backend has its own way to be absent
        msg = f"device {name!r} is not here (torch: {str(error).splitlines()[0][:120]}); use auto, cpu or cuda"
        raise InputError(msg) from error
    return device


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """A block in which torch keeps to one thread: processes that each start several wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit(
    model: nn.Module,
    step_loss: StepLoss,
    batch_at: Callable[[int], Any],
    *,
    steps: int,
    lr: float = 2e-3,
    weight_decay: float = 1e-2,
    warmup: float = 0.1,
    clip: float = 1.0,
    device: str | torch.device = "cpu",
    seed: int = 0,
    validate: Callable[[nn.Module], float] | None = None,
    validate_every: int = 0,
    patience: int = 0,
    resume: str | Path | None = None,
    save_every: int = 200,
    hook: Callable[[int, dict[str, float]], None] | None = None,
    progress: Progress = iter,
    fused: bool = False,
    workers: int = 0,
    compiled: bool = False,
    mixed: bool = True,
) -> list[dict[str, float]]:
    """Train `model` in place by AdamW with linear warm-up and cosine decay; return one record per step.

    batch_at(step) gives the batch of a step and must depend on nothing else, so that a resumed run repeats an
    uninterrupted one. validate(model) is a score to be *lowered*, on an inner split: the weights of its best value are
    restored at the end, and `patience` evaluations without a better one end the run. resume : a safetensors file where
    the state is kept every `save_every` steps; present at the start, it is taken up. hook(step, record) sees each step;
    progress wraps the steps. fused : one pass over the parameters a step instead of one per operation; the last digits
    differ. workers : threads that make the batches of the next steps, for batches made on the CPU (`prefetch`).
    compiled : torch.compile the network's forward pass. mixed : bfloat16 on GPUs where autocast allows it; small
    networks gain nothing by it.

    On a GPU: mixed precision, fused steps, and records (with them hook, and the check of the loss)
    that come READ_EVERY steps at a time. Under torchrun each process trains on its share of every batch (`ranks`).
    """
    if steps < 1:
        msg = f"steps is {steps}; at least 1 is needed"
        raise InputError(msg)
    device = pick_device(device) if isinstance(device, str) else device
    cuda = device.type == "cuda"
    model.to(device, memory_format=torch.channels_last)  # a third faster on CPUs, too
    ranks.alike(model)
    parameters = list(model.parameters())  # walking through the modules takes a millisecond
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused or cuda)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    best_score, stale, start = math.inf, 0, 0
    if resume is not None and Path(resume).exists():
        start, history, best, best_score, stale = _restore(Path(resume), model, optimiser, steps)

    noise = seed * 1_000_003 + ranks.rank() * 7_368_787 * (ranks.world() > 1)
    pending: list[tuple[dict[str, float], dict[str, Tensor]]] = []
    stream = batches(batch_at, range(start, steps), device, workers=workers)
    few = one_torch_thread() if workers and cuda else nullcontext()  # each thread of the loader would start several
    model.train()
    with few, closing(stream), _ready(model, device, compiled=compiled):
        for step in progress(range(start, steps)):
            if not model.training:
                model.train()
            _seed(noise + step, device)  # dropout, too, is a function of the step
            rate = lr * _schedule(step, steps, warmup)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = next(stream)
            with torch.autocast("cuda", torch.bfloat16) if cuda and mixed else nullcontext():
                terms = step_loss(model, batch)
            optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            ranks.average_gradients(model)
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            record: dict[str, float] = {"step": step + 1, "lr": rate}
            pending.append((record, {k: v.detach() for k, v in {"grad_norm": norm, **terms}.items()}))
            look = bool(validate and validate_every) and ((step + 1) % validate_every == 0 or step + 1 == steps)
            save = resume is not None and (step + 1) % save_every == 0 and step + 1 < steps
            if not (look or save or len(pending) == (READ_EVERY if cuda else 1) or step + 1 == steps):
                continue
            _read(pending, lr)
            if look:
                record["validation"] = _judged(model, validate)
                stale += 1
                if record["validation"] < best_score:
                    best_score, stale = record["validation"], 0
                    best = {k: v.detach().clone() for k, v in model.state_dict().items()}
            history += [read for read, _ in pending]
            for read, _ in pending if hook else ():
                hook(read["step"], read)
            pending.clear()
            if save:
                ranks.average_buffers(model)
                if ranks.rank() == 0 or ranks.world() == 1:
                    _save(Path(resume), model, optimiser, step + 1, history, best, best_score, stale)
            if patience and stale >= patience:
                break
        _read(pending, lr)  # where `progress` ended the run
        history += [read for read, _ in pending]
        ranks.average_buffers(model)
    if best:
        model.load_state_dict(best)
    if resume is not None:
        Path(resume).unlink(missing_ok=True)
    return history


@contextmanager
def _ready(model: nn.Module, device: torch.device, *, compiled: bool) -> Iterator[None]:
    """A block with the convolutions tried out for the shapes that come, on GPUs, and the network compiled if asked."""
    tried = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = tried or device.type == "cuda"
    if compiled:
        model.compile()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = tried
        if compiled:
            model._compiled_call_impl = None  # as it came: evaluation has other shapes, each would be compiled anew


def _read(pending: list[tuple[dict[str, float], dict[str, Tensor]]], lr: float) -> None:
    """Put the numbers of some steps into their records: from a GPU in one message; InputError for a loss that is none.

    Of several processes: the mean over them.
    """
    terms = [v for _, given in pending for v in given.values()]
    if not terms:
        return
    if ranks.world() > 1 or any(v.is_cuda for v in terms):
        place = next((v.device for v in terms if v.is_cuda), torch.device("cpu"))
        numbers = ranks.mean_of(torch.stack([v.float().to(place) for v in terms])).tolist()
    else:
        numbers = [v.item() for v in terms]
    left = iter(numbers)
    for record, given in pending:
        record |= {name: next(left) for name in given}
        if not math.isfinite(record["loss"]):
            msg = (
                f"the loss became {record['loss']} at step {record['step']}; lower lr (now {lr}) and look at the batch"
            )
            raise InputError(msg)


def _judged(model: nn.Module, validate: Callable[[nn.Module], float]) -> float:
    """What `validate` says, with one network and one answer in all processes."""
    ranks.average_buffers(model)
    model.eval()
    with torch.no_grad():
        score = float(validate(model))
    return score if ranks.world() == 1 else ranks.mean_of(torch.tensor(score, device=_place(model))).item()


def _place(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _seed(value: int, device: torch.device) -> None:
    """Seed the generator of the device. torch.manual_seed would also queue a call, with its traceback, for GPUs that
    are not in use: a millisecond a step."""
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(value)


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear up over `warmup` of the run, then half a cosine down to 1 %."""
    ramp = max(1, int(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def _save(path, model, optimiser, step, history, best, best_score, stale) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    meta = {"step": step, "history": history, "best": best_score if best else None, "stale": stale}
    with atomic_path(path) as aside:
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, aside, {"fit": json.dumps(meta)})


def _restore(path: Path, model, optimiser, steps: int):
    """What `_save` kept: step, history, best weights, their score, evaluations since; InputError where it is not."""
    try:
        meta, tensors = _kept(path)
        if meta["step"] < steps:
            return _taken_up(meta, tensors, model, optimiser)
    except Exception as error:  # of many kinds: a file that was cut, another network
        msg = (
            f"{path} is not the state of this run ({' '.join(str(error).split())[:200]}); remove the file to start anew"
        )
        raise InputError(msg) from error
    msg = f"{path} was saved at step {meta['step']}, this run has {steps}; remove the file to start anew"
    raise InputError(msg)


def _kept(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {})["fit"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def _taken_up(meta: dict[str, Any], tensors: dict[str, Tensor], model, optimiser):
    part = lambda name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}  # noqa: E731
    model.load_state_dict(part("model."))
    state: dict[int, dict[str, Tensor]] = {}
    params = [p for group in optimiser.param_groups for p in group["params"]]
    for key, value in part("adam.").items():
        i, name = key.split(".")
        p = params[int(i)]
        if value.shape == p.shape:  # in memory as its parameter, whose layout the file does not keep: see `ranks`
            value = torch.empty_like(p, requires_grad=False).copy_(value)
        state.setdefault(int(i), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    device = next(model.parameters()).device
    best = {k: v.to(device) for k, v in part("best.").items()}
    return meta["step"], meta["history"], best, math.inf if meta["best"] is None else meta["best"], meta["stale"]
