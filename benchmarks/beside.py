"""One piece of work done by stpath and by its peers, in turn, in one process: results compared first, then the time.

A `ratio` is the peer's time over ours, of medians over rounds in which each took its turn, in an order drawn anew:
what else the machine does, and the memory that one leaves to the next, hit all alike. Machine, versions and revision
are written beside the rows.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy", "scipy", "pandas", "torch", "scikit-image", "shapely", "anndata", "spatialdata", "squidpy", "scvi-tools",
    "cell2location", "torchmetrics", "scib-metrics", "stardist", "cellpose", "jax", "numba",
)  # fmt: skip
TURN = 0.05  # seconds: what is shorter is called so often in a turn, that a clock and a cold cache tell little
LONG = 20.0  # seconds: what takes longer is run once, its first run counted


def race(
    subject: str,
    size: str,
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any]],
    *,
    equal: Mapping[str, Callable[[Any, Any], str]],
    goal: Mapping[str, float] | None = None,
    rounds: int = 9,
    budget: float = 12.0,
) -> list[dict]:
    """A row for each peer. `equal[peer](our result, theirs)` raises where they differ and says how far they agree.

    The first call of each is not timed (compilation, caches) unless it takes longer than LONG. rounds : at most so
    many, as long as `budget` seconds last; two at least.
    """
    result, _ = _timed(ours)
    rows, runs, once = [], {"ours": ours}, {}
    for peer, work in peers.items():
        row = {"subject": subject, "size": size, "peer": peer}
        try:
            theirs, seconds = _timed(work)
        except ImportError as error:
            rows.append(row | {"not_measured": f"is not installed or does not import: {error}"})
            continue
        row["equal"] = equal[peer](result, theirs)
        rows.append(row)
        once[peer] = seconds
        if seconds <= LONG:
            runs[peer] = work
    times, order = {name: [] for name in runs}, np.random.default_rng(0)
    begun = time.perf_counter()
    while len(times["ours"]) < rounds and (len(times["ours"]) < 2 or time.perf_counter() - begun < budget):
        for name in order.permutation(list(runs)):  # who comes after whom, and finds its memory, changes
            times[name].append(_turn(runs[name]))
    took = once | {name: float(np.median(seconds)) for name, seconds in times.items()}
    for row in rows:
        if "equal" in row:
            ratio = took[row["peer"]] / took["ours"]
            row |= {"ours_ms": _short(1e3 * took["ours"]), "peer_ms": _short(1e3 * took[row["peer"]])}
            row |= {"ratio": _short(ratio), "rounds": len(times.get(row["peer"], [0]))}
            if goal and row["peer"] in goal:
                row |= {"goal": goal[row["peer"]], "met": bool(ratio >= goal[row["peer"]])}
        print(json.dumps(row), flush=True)
    return rows


def _turn(work: Callable[[], Any]) -> float:
    """Seconds of one call, the mean of as many as fill TURN."""
    calls, seconds = 0, 0.0
    while not calls or seconds < TURN:
        calls, seconds = calls + 1, seconds + _timed(work)[1]
    return seconds / calls


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    with warnings.catch_warnings(action="ignore"):  # of the peers
        begun = time.perf_counter()
        result = work()
        return result, time.perf_counter() - begun


def _short(value: float) -> float:
    """Three significant digits: more were not measured."""
    return float(f"{value:.3g}")


def close(tolerance: float, what: str = "values") -> Callable[[Any, Any], str]:
    """`equal` for arrays (or tuples of numbers) that agree within an absolute tolerance, nan where the other is nan."""

    def check(ours: Any, theirs: Any) -> str:
        ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
        np.testing.assert_allclose(theirs, ours, atol=tolerance, rtol=0)
        return f"{what} within {tolerance:g}; largest difference {_short(float(np.nanmax(np.abs(ours - theirs))))}"

    return check


def write(name: str, rows: list[dict], *, folder: Path = RESULTS, **more: Any) -> Path:
    """results/<name>.json: the machine, the versions, the revision of the code, and the rows."""
    from stpath_core.manifest import write_json

    path = folder / f"{name}.json"
    write_json(path, {**where(), **more, "comparisons": rows})
    return path


def where() -> dict:
    """What a number depends on beside the code, and which code it was."""
    return {
        "day": datetime.now(UTC).date().isoformat(), "revision": REVISION, "machine": machine(),
        "python": platform.python_version(), "versions": {p: v for p in PACKAGES if (v := _version(p))},
    }  # fmt: skip


def machine() -> dict:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((row.split(":")[1].strip() for row in info.read_text().splitlines() if "model name" in row), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = round(os.getloadavg()[0], 2)
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "system": platform.system(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)), "load_at_the_end": load,
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str:
    """First 12 digits of the commit, "+" where benchmarks or library differ from it."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # a machine without git
            return ""

    changed = git("status", "--porcelain", "--", "stpath_core", "benchmarks/*.py")
    return (git("rev-parse", "HEAD")[:12] or "unknown") + ("+" if changed else "")


REVISION = _revision()  # when the run begins: a commit made meanwhile is not what was measured


def sizes(argv: list[str] | None = None) -> bool:
    """Whether the smallest sizes alone are wanted (--smoke): structure and equality, no numbers to keep."""
    return "--smoke" in (sys.argv if argv is None else argv)
