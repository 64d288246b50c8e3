"""Break a copy of a Xenium bundle on purpose, as it happens to people, to see whether a check notices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from stpath_core.errors import InputError
from stpath_core.io.files import atomic_folder

XY = (("vertex_x", "vertex_y"), ("x_location", "y_location"), ("x_centroid", "y_centroid"))
PLACED = ("nucleus_boundaries", "cell_boundaries", "transcripts", "cells")  # tables that hold positions
VENDOR_MPP = 0.2125  # um per pixel of the instrument's own picture


def _edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def _swap_axes(folder: Path) -> None:
    """x where y belongs, in every table of positions."""
    for name in PLACED:
        both = {a: b for x, y in XY for a, b in ((x, y), (y, x))}
        _edit(folder / f"{name}.parquet", lambda t, both=both: t.rename(columns=both)[list(t.columns)])


def _pixels_for_um(folder: Path) -> None:
    """Positions in pixels of the instrument's picture, in files that promise micrometres."""
    for name in PLACED:
        columns = [c for pair in XY for c in pair]
        _edit(folder / f"{name}.parquet",
              lambda t, cs=columns: t.assign(**{c: t[c] / VENDOR_MPP for c in cs if c in t}))  # fmt: skip


def _normalise(folder: Path) -> None:
    """log1p of counts per 10,000 where the raw counts belong."""
    import h5py

    with h5py.File(folder / "cell_feature_matrix.h5", "r+") as file:
        counts, start = file["matrix/data"][...].astype(np.float32), file["matrix/indptr"][...]
        n = np.diff(start)
        total = np.add.reduceat(np.r_[counts, 0], np.minimum(start[:-1], len(counts)))
        del file["matrix/data"]
        file["matrix/data"] = np.log1p(counts / np.repeat(np.maximum(total, 1), n) * 1e4).astype(np.float32)


def _repeat_ids(folder: Path) -> None:
    """Two runs in one table: every tenth cell carries the id of the one before."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        ids = table["cell_id"].to_numpy().copy()
        ids[10::10] = ids[9:-1:10]
        return table.assign(cell_id=ids)

    _edit(folder / "cells.parquet", change)


MISTAKES: dict[str, Callable[[Path], None]] = {
    "swapped axes": _swap_axes,
    "pixels for micrometres": _pixels_for_um,
    "normalised counts": _normalise,
    "repeated ids": _repeat_ids,
}

SHOWS = {"swapped axes": "registration", "pixels for micrometres": "units", "normalised counts": "raw counts",
         "repeated ids": "ids"}  # the row of the checklist that has to notice  # fmt: skip


def break_copy(bundle: str | Path, folder: str | Path, mistake: str) -> Path:
    """Copy a bundle to `folder` and make one of MISTAKES in the copy. The original stays as it is."""
    if mistake not in MISTAKES:
        message = f"mistake={mistake!r}; expected one of {', '.join(MISTAKES)}"
        raise InputError(message)
    with atomic_folder(folder) as aside:
        shutil.copytree(bundle, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns("truth"))
        MISTAKES[mistake](aside)
    return Path(folder)
