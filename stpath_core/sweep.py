"""Sweeps: a grid over parameters, seeds and data sets, each point a run of its own, resumable, compared at the end.

A point is a folder: point.yaml (its values, as `stpath run -f` reads them), the runs that it made, its log, and
finished.json, written last. A point that has that file, for the code as it is, is not run again.

Points run in child processes of this machine, or on the workers of a Dask scheduler (a local cluster, or Slurm through
dask-jobqueue) that see the same disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stpath_core import manifest, run, stages
from stpath_core.checks import check_folder
from stpath_core.errors import InputError
from stpath_core.io.files import atomic_path, only_one
from stpath_core.parallel import dask_client
from stpath_core.parameters import read_parameter_file, refuse_unknown

DONE = "finished.json"
SECTIONS = ("notebooks", "grid", "fixed")
AT_MOST = 10_000  # points

EXAMPLE = """\
notebooks: [10, 11, 12]        # numbers or names, or all
fixed: {profile: smoke}        # the same in every point; as in a parameter file
grid:                          # all combinations
  seed: [0, 1, 2]
  steps: [100, 200]
"""


@dataclass(frozen=True)
class Point:
    """One combination of the grid: what varies, all that is given, and the folder it runs in."""

    varied: Mapping[str, Any]
    values: Mapping[str, Any]
    notebooks: tuple[str, ...]
    folder: Path
    identity: str  # of the code and of all values that decide its outputs

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.varied.items())

    @property
    def finished(self) -> bool:
        return manifest.read_json(self.folder / DONE).get("identity") == self.identity


def read_grid(path: Path) -> tuple[list[str], dict[str, list], dict[str, Any]]:
    """notebooks, grid and fixed values of a sweep's file. InputError says what it should look like."""
    content = read_parameter_file(path)
    refuse_unknown(content, SECTIONS, where=f"the sweep file {path}")
    notebooks, grid, fixed = (content.get(name) for name in SECTIONS)
    notebooks = notebooks if isinstance(notebooks, list) else [notebooks]
    whole = isinstance(grid, dict) and grid and all(isinstance(v, list) and v for v in grid.values())
    if not whole or not all(type(n) in (str, int) for n in notebooks) or not isinstance(fixed or {}, dict):
        msg = f"{path} is no sweep: it needs notebooks and a grid of lists, as in\n\n{EXAMPLE}"
        raise InputError(msg)
    twice = sorted(set(grid) & set(fixed or {})) + [name for name in ("out",) if name in grid or name in (fixed or {})]
    if twice:
        msg = (
            f"{path} gives {', '.join(twice)} where it cannot stand: a name is either varied or fixed, and the folder "
        )
        raise InputError(msg + "of all runs is said by --out")
    for name, levels in grid.items():
        if len({json.dumps(level, default=str) for level in levels}) < len(levels):
            msg = f"{path} has a value of {name} twice: {levels}"
            raise InputError(msg)
    return [f"{n:02d}" if isinstance(n, int) else n for n in notebooks], grid, dict(fixed or {})


def plan(path: Path, out: str | Path = "") -> tuple[list[Point], Path]:
    """All points of a sweep, checked before any runs, and the folder that holds them.

    Raises InputError for a file that is no sweep, for more than AT_MOST points, and for whatever `stpath run` refuses.
    """
    names, grid, fixed = read_grid(path)
    n = 1
    for levels in grid.values():
        n *= len(levels)
    if n > AT_MOST:
        msg = f"{path} spans {n:,} points; at most {AT_MOST:,} make a sweep"
        raise InputError(msg)
    folder = stages.absolute(out) if str(out) else stages.home() / "runs" / "sweeps" / path.stem
    check_folder(folder)
    points = []
    for levels in itertools.product(*grid.values()):
        varied = dict(zip(grid, levels, strict=True))
        values = fixed | varied
        planned = run.plan(names, {}, values)
        said = [[one.stage.name, one.values["dataset"], one.values["profile"]] for one in planned]
        identity = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
        points.append(Point(varied, values, tuple(names), folder / _folder_name(varied), identity))
    return points, folder


def _folder_name(varied: Mapping[str, Any]) -> str:
    """Readable, safe as a name of a folder, and one per combination: `seed=1,steps=200-1f0c2a`."""
    text = ",".join(f"{key}={value}" for key, value in varied.items())
    digest = hashlib.sha256(json.dumps(varied, sort_keys=True, default=str).encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9=,._-]+', '_', text)[:80].lstrip('.')}-{digest}"


def sweep(
    points: Sequence[Point], *, workers: int = 1, scheduler: str = "", say: Callable[[str], None] = print
) -> dict[str, str]:
    """Run the points that are not finished; returns "ok", "kept" or "failed" by the name of each.

    workers : points at a time on this machine. scheduler : address of a Dask scheduler instead. An interrupt ends what
    runs and leaves what is finished. InputError at once, while another sweep works in the same folder.
    """
    if workers < 1:
        msg = f"--workers {workers}: at least 1 is needed"
        raise InputError(msg)
    with contextlib.ExitStack() as held:
        for folder in sorted({point.folder.parent for point in points}):
            held.enter_context(only_one(folder))
        return _sweep(points, workers, scheduler, say)


def _sweep(points: Sequence[Point], workers: int, scheduler: str, say: Callable[[str], None]) -> dict[str, str]:
    """`sweep`, in folders that nobody else works in."""
    ended = {point.name: "kept" for point in points if point.finished}
    if ended:
        say(f"{len(ended)} of {len(points)} points are finished and kept")
    todo = [point for point in points if not point.finished]
    threads = max(1, (os.cpu_count() or 1) // workers)
    with _executor(workers, scheduler) as executor:
        waiting = {executor.submit(run_point, point, None if scheduler else threads): point for point in todo}
        try:
            for future in as_completed(waiting):
                point = waiting[future]
                try:
                    status, seconds = future.result()
                    log = "" if status == "ok" else f", see {run.shown(point.folder / 'log.txt')}"
                except InputError as error:  # a point of a sweep that was killed still runs there
                    status, seconds, log = "failed", 0.0, f": {error}"
                ended[point.name] = status
                say(f"{len(ended)} of {len(points)}  {point.name}: {status} after {seconds:.0f} s{log}")
        except BaseException:
            for future in waiting:
                future.cancel()
            _end_children()
            raise
    return {point.name: ended[point.name] for point in points}


@contextlib.contextmanager
def _executor(workers: int, scheduler: str) -> Iterator[Executor]:
    if not scheduler:
        with ThreadPoolExecutor(workers) as executor:  # threads that wait for child processes
            yield executor
        return
    with dask_client(scheduler) as client, client.get_executor(pure=False) as executor:
        yield executor


_children: set[subprocess.Popen] = set()
_lock = threading.Lock()


def run_point(point: Point, threads: int | None = None) -> tuple[str, float]:
    """Run one point in a process of its own: "ok" or "failed", and the seconds. threads : for its arithmetic.

    That process holds the point's folder until it ends, also where the sweep that began it was killed meanwhile.
    """
    with only_one(point.folder) as handle:
        return _run_held(point, threads, handle)


def _run_held(point: Point, threads: int | None, handle: int) -> tuple[str, float]:
    given = point.folder / "point.yaml"
    with atomic_path(given) as aside:
        aside.write_text(yaml.safe_dump(dict(point.values), sort_keys=True), encoding="utf-8")
    words = [sys.executable, "-m", "stpath_core", "run", *point.notebooks, "-f", str(given)]
    words += ["--out", str(point.folder / "runs"), "--reuse"]
    environment = dict(os.environ)
    if threads:
        environment = {"OMP_NUM_THREADS": str(threads)} | environment
    begun = time.monotonic()
    with (point.folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, pass_fds=(handle,))
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(process.pid).encode(), 0)  # whoever is refused learns who holds the folder
        with _lock:
            _children.add(process)
        code = process.wait()
        with _lock:
            _children.discard(process)
    seconds = time.monotonic() - begun
    if code:
        return "failed", seconds
    about = {"identity": point.identity, "varied": dict(point.varied), "seconds": round(seconds, 1)}
    manifest.write_json(point.folder / DONE, about)
    return "ok", seconds


def _end_children() -> None:
    """Ask the running points to stop, as an interrupt would, and wait for them."""
    with _lock:
        running = list(_children)
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
