"""The one training loop: schedule, clipping, mixed precision, history, early stop, resume, one hook."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stpath_core.errors import InputError
from stpath_core.io.files import atomic_path

StepLoss = Callable[[nn.Module, Any], dict[str, Tensor]]  # its "loss" is minimised, all entries are recorded
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
) -> list[dict[str, float]]:
    """Train `model` in place by AdamW with linear warm-up and cosine decay; return one record per step.

    batch_at(step) gives the batch of a step and must depend on nothing else, so that a resumed run repeats an
    uninterrupted one. validate(model) is a score to be *lowered*, on an inner split: the weights of its best value are
    restored at the end, and `patience` evaluations without a better one end the run. resume : a safetensors file where
    the state is kept every `save_every` steps; present at the start, it is taken up. hook(step, record) sees each step;
    progress wraps the steps. fused : one pass over the parameters a step instead of one per operation; the last digits
    differ.
    """
    if steps < 1:
        msg = f"steps is {steps}; at least 1 is needed"
        raise InputError(msg)
    device = pick_device(device) if isinstance(device, str) else device
    amp = device.type == "cuda"
    model.to(device, memory_format=torch.channels_last)  # a third faster on CPUs, too
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=fused)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    best_score, stale, start = math.inf, 0, 0
    if resume is not None and Path(resume).exists():
        start, history, best, best_score, stale = _restore(Path(resume), model, optimiser, steps)

    for step in progress(range(start, steps)):
        model.train()
        _seed(seed * 1_000_003 + step, device)  # dropout, too, is a function of the step
        rate = lr * _schedule(step, steps, warmup)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = batch_at(step).to(device)
        with torch.autocast("cuda", torch.bfloat16) if amp else nullcontext():
            terms = step_loss(model, batch)
        optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        record = {"step": step + 1, "lr": rate, "grad_norm": norm.item(), **{k: v.item() for k, v in terms.items()}}
        if not math.isfinite(record["loss"]):
            msg = f"the loss became {record['loss']} at step {step + 1}; lower lr (now {lr}) and look at the batch"
            raise InputError(msg)
        if validate and validate_every and ((step + 1) % validate_every == 0 or step + 1 == steps):
            model.eval()
            with torch.no_grad():
                record["validation"] = float(validate(model))
            stale += 1
            if record["validation"] < best_score:
                best_score, stale = record["validation"], 0
                best = {k: v.detach().clone() for k, v in model.state_dict().items()}
        history.append(record)
        if hook:
            hook(step + 1, record)
        if resume is not None and (step + 1) % save_every == 0 and step + 1 < steps:
            _save(Path(resume), model, optimiser, step + 1, history, best, best_score, stale)
        if patience and stale >= patience:
            break
    if best:
        model.load_state_dict(best)
    if resume is not None:
        Path(resume).unlink(missing_ok=True)
    return history


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
    for key, value in part("adam.").items():
        i, name = key.split(".")
        state.setdefault(int(i), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    device = next(model.parameters()).device
    best = {k: v.to(device) for k, v in part("best.").items()}
    return meta["step"], meta["history"], best, math.inf if meta["best"] is None else meta["best"], meta["stale"]
