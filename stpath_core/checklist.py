"""Check data before a minute of training is spent on them: what was found, and whether it is what it seems.

One row per item and check: ok, look (it works, and you should know) or stop (it would give nonsense), what was seen,
and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from stpath_core.io.counts import no_counts, whole_numbers
from stpath_core.io.genes import gene_names, known_symbols
from stpath_core.io.sniff import Found, find_data
from stpath_core.parts import Parts, gather

CHECKS = ("opens", "units", "registration", "gene names", "ids", "raw counts", "patients", "labels")
REGISTERED = 0.05  # optical density by which nuclei have to be darker than what lies beside them
BETTER = 0.05  # by which another reading of the axes has to be better before it is named
FEW_COUNTS = 20  # per cell or spot, in the median, below which typing has little to go by


@dataclass(frozen=True)
class Finding:
    """item : path within the folder. kind : format. state : ok, look or stop. what : seen. do : about it, or ""."""

    item: str
    kind: str
    check: str
    state: Literal["ok", "look", "stop"]
    what: str
    do: str = ""


def check_folder(folder: str | Path, *, mpp: float | None = None, most: int = 24) -> list[Finding]:
    """The checklist of everything in a folder that a reader knows.

    mpp : um per pixel, for files that do not say. most : items that are looked at; what is left out is said.
    """
    folder = Path(folder)
    found = find_data(folder)
    out = [finding for item in found[:most] for finding in check_item(item, root=folder, mpp=mpp)]
    if len(found) > most:
        rest = f"{len(found) - most} more items were not looked at"
        out.append(Finding(folder.name, "folder", "opens", "look", rest, "check them in folders of their own"))
    return out


def check_item(item: Found, *, root: Path | None = None, mpp: float | None = None) -> list[Finding]:
    """The rows of one item; checks that do not apply to its format have none."""
    parts = gather(item, mpp=mpp)
    root = item.path if root is None else root
    name = str(item.path.relative_to(root)) if item.path.is_relative_to(root) and item.path != root else item.path.name
    judged = {
        "opens": _opens(parts), "units": _units(parts), "registration": _registration(parts, item.kind),
        "gene names": _genes(parts), "ids": _ids(parts), "raw counts": _counts(parts),
        "patients": _patients(parts), "labels": _labels(parts, item.kind),
    }  # fmt: skip
    return [Finding(name, item.kind, check, *judged[check]) for check in CHECKS if judged[check] is not None]


def as_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table, a row each: item, kind, check, state, what, do."""
    columns = list(Finding.__dataclass_fields__)
    return pd.DataFrame([asdict(f) for f in findings], columns=columns)


def worst(findings: Iterable[Finding]) -> str:
    """The worst state among findings: "stop", "look" or "ok"."""
    states = {f.state for f in findings}
    return next((s for s in ("stop", "look") if s in states), "ok")


def _opens(parts: Parts) -> tuple[str, ...]:
    if parts.error:
        return "stop", parts.error, "as the message says; the rows below are of the files one by one"
    return "ok", parts.opened


def _units(parts: Parts) -> tuple[str, ...] | None:
    if parts.size is None:
        return None if parts.mpp is None else ("ok", f"{parts.mpp:.3g} um per pixel")
    what, value, low, high = parts.size
    said = f"{what} {value:.3g} um, expected {low:g} to {high:g}"
    if low <= value <= high and "micrometres are expected" not in parts.error:
        return "ok", said
    if low <= value <= high:
        return "stop", said + ", but not on the image", "give coordinates in um, and the alignment of this image"
    if low / 1.6 <= value <= high * 1.6:
        return "look", said, "compare a ruler on the picture with a nucleus or a spot"
    cause = "pixels taken for micrometres, or a wrong mpp?" if value > high else "mm, or a wrong mpp?"
    if value > high and "cell" in what:  # cells drawn at random lie apart, and nothing is wrong
        return "look", said, f"a sample of the cells? otherwise {cause}"
    return "stop", said, cause


def _registration(parts: Parts, kind: str) -> tuple[str, ...] | None:
    if parts.scores is None:
        if kind not in ("xenium", "spatialdata", "visium", "hest", "masks"):
            return None
        return "look", "not measured: no image, or it does not open", "mend the rows that say stop, then look again"
    given = parts.scores["as given"]
    best = max(parts.scores, key=parts.scores.get)
    unit = "of the spots on tissue beyond chance" if parts.of_points else "OD darker than beside"
    said = ", ".join(f"{name} {value:.2f}" for name, value in parts.scores.items()) + f" ({unit})"
    if best != "as given" and parts.scores[best] - given > BETTER:
        return "stop", said, f"{best}: exchange or turn the axes of the positions, then look at the overlay"
    if parts.of_points and given <= BETTER:
        return "look", said, "the picture is all tissue, or all glass: look at an overlay"
    if parts.of_points:
        return "ok", said
    if given < REGISTERED:
        return "stop", said, "the nuclei lie on nothing darker: find the alignment that belongs to this image"
    return "ok", said


def _genes(parts: Parts) -> tuple[str, ...] | None:
    if parts.genes is None:
        return None
    names = gene_names(parts.genes)
    example = ", ".join(map(str, parts.genes[:3]))
    said = f"{len(parts.genes):,} {names.kind}, {names.species} ({example}, ...)"
    if names.kind == "unnamed":
        return "stop", said, "put gene symbols into var_names; by numbers nothing can be typed"
    if names.duplicates:
        return "stop", f"{said}; {names.duplicates} occur again", "duplicates='sum' or 'number' in the reader"
    if names.kind == "ensembl":
        return "look", said, "marker tables use symbols: add a column gene_symbol"
    if names.species == "mouse":
        return "look", said, "our markers are human: bring a marker table of mouse genes"
    known = len(set(parts.genes) & known_symbols())
    return ("ok", said) if known >= 20 else ("look", f"{said}; {known} known markers", "bring markers of this panel")


def _ids(parts: Parts) -> tuple[str, ...] | None:
    if parts.ids is None:
        return None
    again = pd.Index(parts.ids).duplicated()
    if again.any():
        example = pd.Index(parts.ids)[again][0]
        return "stop", f"{int(again.sum())} of {len(again)} ids occur again, first {example!r}", "give each its own id"
    return "ok", f"{len(again):,} different ids"


def _counts(parts: Parts) -> tuple[str, ...] | None:
    if parts.counts is None:
        return None
    matrix = parts.counts
    if not whole_numbers(matrix):
        rows = matrix if issparse(matrix) or np.ndim(matrix) == 2 else np.asarray(matrix)[None]
        return "stop", no_counts(rows, where="the matrix").partition(";")[0], "give the matrix before normalisation"
    if np.ndim(matrix) != 2:
        return "ok", f"whole numbers, {int(np.sum(matrix)):,} in all"
    depth = float(np.median(np.asarray(matrix.sum(1)).ravel()))
    said = f"whole numbers, median {depth:,.0f} per row"
    return (
        ("ok", said) if depth >= FEW_COUNTS else ("look", said, "few: expect many unknown, or leave out the emptiest")
    )


def _patients(parts: Parts) -> tuple[str, ...] | None:
    if parts.patients is None:
        return None
    names = sorted(set(parts.patients))
    if names == sorted(set(parts.sections)) and parts.sections:
        return "look", f"{len(names)}, taken from the names of sections", "two sections of one person? then name them"
    said = f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
    return ("ok", said) if len(names) > 1 else ("look", said, "one patient cannot be held out: add others")


def _labels(parts: Parts, kind: str) -> tuple[str, ...] | None:
    if kind in ("image", "features", "bulk"):
        return None
    if parts.types is None and kind == "xenium":
        return "ok", "none, and none needed: notebook 10 makes them from transcripts"
    if parts.types is None:
        return None if parts.error else ("look", "no types or regions", "outlines can be learned; classes cannot")
    share = pd.Series(parts.types).value_counts()
    said = f"{len(share)} classes: " + ", ".join(f"{k} {v:,}" for k, v in share.head(5).items())
    rare = [k for k, v in share.items() if v < 10]
    return ("look", said, f"fewer than 10 of {', '.join(rare[:3])}: pool or leave out") if rare else ("ok", said)
