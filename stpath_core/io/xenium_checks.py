"""What a bundle's coordinates and transcripts must be: numbers, micrometres, on the H&E, of sufficient quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stpath_core.errors import InputError

NUCLEUS_DIAMETER_UM = (2.5, 20.0)  # of the median nucleus; outside, the unit is wrong
UNITS = "are the coordinates pixels where micrometres are expected, or is the alignment of another image?"


def check_finite(path: Path, table: Any, columns: Sequence[str]) -> None:
    """Refuse coordinates that are NaN, infinite or no numbers. table : of pyarrow, as read from `path`."""
    for column in columns:
        numbers = pd.to_numeric(table[column].to_pandas(), errors="coerce").to_numpy(float)
        bad = len(numbers) - int(np.isfinite(numbers).sum())
        if bad:
            message = f"{path}: {bad} of {len(numbers)} values of {column} are NaN or infinite: drop or mend these rows"
            raise InputError(message)


def usable_transcripts(path: Path, table: Any, *, min_qv: float) -> Any:
    """The rows of genes of the panel (`feature_name` >= 0, their code) with qv >= min_qv; InputError where none is."""
    import pyarrow.compute as pc

    of_panel = table.filter(pc.greater_equal(table["feature_name"], 0))
    if not len(of_panel):
        message = f"{path}: none of {len(table)} transcripts is of a gene of the count matrix: are both of one run?"
        raise InputError(message)
    kept = good_enough(of_panel, min_qv=min_qv)
    if not len(kept):
        best = pc.max(of_panel["qv"]).as_py()
        message = f"{path}: no transcript passes qv >= {min_qv:g}; the best of {len(of_panel)} has {best}: is the"
        raise InputError(message + " column qv the vendor's Phred score?")
    check_finite(path, kept, ("x_location", "y_location"))
    return kept


def good_enough(table: Any, *, min_qv: float) -> Any:
    """The rows of genes of the panel with qv >= min_qv, where there is a qv; possibly none."""
    import pyarrow.compute as pc

    of_panel = table.filter(pc.greater_equal(table["feature_name"], 0))
    return of_panel.filter(pc.greater_equal(of_panel["qv"], min_qv)) if "qv" in table.column_names else of_panel


def check_nuclear_size(where: str | Path, nuclei: pd.DataFrame, *, ask: str = UNITS) -> None:
    """Refuse nuclei (column area_um2) that are no nuclei at this scale. ask : what may be wrong."""
    diameter = 2 * np.sqrt(nuclei["area_um2"].median() / np.pi)
    if not NUCLEUS_DIAMETER_UM[0] <= diameter <= NUCLEUS_DIAMETER_UM[1]:
        message = f"{where}: the median nucleus is {diameter:.3g} um across; {ask}"
        raise InputError(message)


def refuse_outside(folder: Path, what: str, inside: float, shape: tuple[int, ...]) -> None:
    """Refuse an assay of which less than half lies inside its image. inside : share of `what`; shape (H, W)."""
    if inside < 0.5:
        message = f"{folder}: {inside:.0%} of the {what} lie inside the H&E of {shape[1]} x {shape[0]} px; {UNITS}"
        raise InputError(message)


def check_place(folder: Path, nuclei_px, transcripts: pd.DataFrame, um_to_px, shape) -> None:
    """Catch pixels given as micrometres, and an alignment that does not belong to the image."""
    points = transcripts[["x_um", "y_um"]].to_numpy()
    molecules_px = points @ um_to_px[:2, :2].T + um_to_px[:2, 2]
    size = np.array(shape[::-1])
    for what, xy in (("nuclei", nuclei_px.mean(1)), ("transcripts", molecules_px)):
        inside = ((xy >= 0) & (xy <= size)).all(1).mean() if len(xy) else 0.0
        refuse_outside(folder, what, inside, shape)
    refuse_span(folder, nuclei_px, np.ptp(np.percentile(molecules_px, (2, 98), axis=0), axis=0))


def refuse_span(folder: Path, nuclei_px: np.ndarray, span: np.ndarray) -> None:
    """Refuse transcripts of another extent than the nuclei (N, V, 2). span : (2,) x, y in pixels, of the transcripts'
    middle 96 %."""
    ratio = span / np.maximum(np.ptp(np.percentile(nuclei_px.mean(1), (2, 98), axis=0), axis=0), 1e-9)
    if len(nuclei_px) > 20 and not ((ratio > 0.6) & (ratio < 1.7)).all():
        message = f"{folder}: transcripts span {ratio[0]:.2f} x {ratio[1]:.2f} times the extent of the nuclei; {UNITS}"
        raise InputError(message)
