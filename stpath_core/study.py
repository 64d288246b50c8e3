"""Studies: a whole grid of experiments, computed once for a long time and committed as a table.

A notebook's parameter `study` decides: "table" shows the committed table, "full" makes it anew. What is done is kept in
data/cache/studies, so an interrupted study goes on where it stopped; the table is written when it is whole.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpath_core import manifest, stages
from stpath_core.errors import InputError
from stpath_core.io.files import atomic_path
from stpath_core.io.registry import DATA_FOLDER
from stpath_core.progress import track

if TYPE_CHECKING:
    import pandas as pd

Level = str | int | float | bool


def table(
    name: str, grid: Mapping[str, Sequence[Level]], cell: Callable[..., Mapping[str, float | None]], *, full: bool
) -> pd.DataFrame:
    """The table of a study, a row per combination of the grid and key.

    name : of data/results/<name>.csv, and of <name>.json beside it (grid, cells, seconds, versions)
    grid : factor -> its levels; all combinations are computed, the last factor fastest
    cell : called with one level of each factor by name, returns key -> value (None: undefined). A plain function, whose
        source, with the library's, decides whether a kept result still counts
    full : compute (and write the two files), or read what is committed

    Returns the factors, "key", "value", "revision" (of the code) and "day". Raises InputError when there is no
    committed table, or one of another grid.
    """
    check_grid(name, grid)
    return _compute(name, grid, cell) if full else _read(name, grid)


def check_grid(name: str, grid: Mapping[str, Sequence[Level]]) -> None:
    """Raise InputError for a factor without levels, with one level twice, or named as a column of the table."""
    for factor, levels in grid.items():
        if not len(levels) or len(set(levels)) < len(levels) or factor in ("key", "value", "revision", "day"):
            msg = f"study {name}: factor {factor!r} has the levels {list(levels)}; give at least one, each once, and "
            raise InputError(msg + "a name other than key, value, revision and day")


def combinations(grid: Mapping[str, Sequence[Level]]) -> list[dict[str, Level]]:
    """All combinations of the levels, the last factor fastest."""
    return [dict(zip(grid, levels, strict=True)) for levels in itertools.product(*grid.values())]


def results_folder() -> Path:
    """Where tables of studies are committed."""
    return DATA_FOLDER / "results"


def _read(name: str, grid: Mapping[str, Sequence[Level]]) -> pd.DataFrame:
    import pandas as pd

    path = results_folder() / f"{name}.csv"
    if not path.is_file():
        msg = f"no committed study {path}; make it with -p study=full"
        raise InputError(msg)
    found = pd.read_csv(path, dtype={"revision": str, "day": str})
    made = manifest.read_json(path.with_suffix(".json")).get("grid")
    if made != {factor: list(levels) for factor, levels in grid.items()}:
        msg = f"{path} was made of the grid {made}, the notebook asks for {dict(grid)}; make it anew: -p study=full"
        raise InputError(msg)
    return found


def _compute(name: str, grid: Mapping[str, Sequence[Level]], cell: Callable[..., Mapping]) -> pd.DataFrame:
    import pandas as pd

    kept = stages.cache_folder() / "studies" / name
    rows, seconds, runs = [], 0.0, combinations(grid)
    for run in track(runs, label=name):
        done = _one(kept, run, cell)
        seconds += done["seconds"]
        for key, value in done["values"].items():
            rows.append({**run, "key": key, "value": value, "revision": done["revision"], "day": done["day"]})
    found = pd.DataFrame(rows)
    path = results_folder() / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        found.to_csv(aside, index=False, float_format="%.6g")
    about = {"study": name, "grid": {factor: list(levels) for factor, levels in grid.items()}, "cells": len(runs)}
    about |= {"seconds": round(seconds, 1), "versions": manifest.versions()}
    manifest.write_json(path.with_suffix(".json"), about)
    return found


def _one(kept: Path, run: dict[str, Level], cell: Callable[..., Mapping]) -> dict[str, Any]:
    """One combination: what was kept of it, or computed and kept now."""
    identity = [run, stages.library_hash(), inspect.getsource(cell)]
    path = kept / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}.json"
    done = manifest.read_json(path)
    if not done:
        begun = time.monotonic()
        values = {key: _number(value) for key, value in cell(**run).items()}
        git = manifest.git_revision(stages.home())
        revision = str(git.get("revision", ""))[:12] + ("+" if git.get("changed") else "")
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        done = {"run": run, "values": values, "revision": revision, "day": today}
        done["seconds"] = round(time.monotonic() - begun, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_json(path, done)
    return done


def _number(value: float | None) -> float | None:
    """A plain number; None for what is undefined."""
    return None if value is None or not math.isfinite(value) else float(value)
