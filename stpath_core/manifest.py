"""What surrounds a run: versions, git revision, device, memory; and JSON files written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpath_core.io.files import atomic_path

PACKAGES = (
    "numpy", "scipy", "pandas", "torch", "torchvision", "timm", "scanpy", "anndata", "squidpy", "spatialdata",
    "spatialdata-io", "scikit-image", "scikit-learn", "h5py", "safetensors", "tifffile", "matplotlib", "papermill",
    "jupytext",
)  # fmt: skip


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically. NaN is refused: undefined is null."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """The same with None for numbers that are none: undefined is null, and JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when there is none, or a broken one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def versions() -> dict[str, str]:
    """Python and the packages that decide results, as installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision(folder: Path) -> dict[str, Any]:
    """The commit of a folder and whether tracked files differ from it; empty outside git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        return {
            "revision": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def machine() -> dict[str, Any]:
    """Platform, usable cores and memory, without names or paths."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"platform": platform.platform(), "cores": cores, "ram_gb": round(psutil.virtual_memory().total / 2**30, 1)}


def used_device(device: str) -> str:
    """What `device` meant in this process. torch is asked only if the notebook has imported it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "cpu" if device == "auto" else device
    name = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    return f"{name} ({torch.cuda.get_device_name()})" if name.startswith("cuda") else name


def peak_memory_gb() -> dict[str, float]:
    """Peak resident memory of this process, of its largest child, and of the GPU allocator if used, in GB."""
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is bytes on macOS, KiB on Linux
    own, child = (resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = {"ram_gb": round(own, 2), "ram_of_largest_child_gb": round(child, 2)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["vram_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return peak
