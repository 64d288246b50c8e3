"""What lies in a folder: the formats that can be opened, told by the files that make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stpath_core.errors import InputError
from stpath_core.io.images import IMAGE_SUFFIXES

TABLE_SUFFIXES = (".tsv", ".csv", ".txt", ".tsv.gz", ".csv.gz", ".txt.gz")
_WIDE = 3  # columns of numbers that a table of counts has at least


@dataclass(frozen=True)
class Found:
    """kind : xenium, spatialdata, visium, st, hest, masks (folders); h5ad, features, bulk, image (files)."""

    kind: str
    path: Path
    image: Path | None = None  # of an h5ad: the picture of the same name beside it


def find_data(folder: str | Path) -> list[Found]:
    """Everything in a folder that a reader knows, in order of names. A folder of one format is one item."""
    if not str(folder) or not Path(folder).exists():
        message = f"data_dir={str(folder)!r} does not exist; give the folder that holds your data"
        raise InputError(message)
    folder = Path(folder)
    found = list(_walk(folder)) if folder.is_dir() else list(_files([folder]))
    if not found:
        message = f"{folder} holds nothing that can be opened: a Xenium or Visium output, SpatialData, h5ad, images, "
        raise InputError(message + "features or count tables are looked for")
    return found


def _walk(folder: Path) -> Iterator[Found]:
    kind = folder_kind(folder)
    if kind:
        yield Found(kind, folder)
        return
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    yield from _files([p for p in inside if p.is_file()])
    for path in inside:
        if path.is_dir():
            yield from _walk(path)


def folder_kind(folder: Path) -> str:
    """The format of a folder, or "" where it is none."""
    names = {p.name for p in folder.iterdir()}
    if "experiment.xenium" in names:
        return "xenium"
    if names & {".zgroup", "zarr.json"} and names & {"shapes", "tables", "points", "images"}:
        return "spatialdata"
    if any(n.endswith("feature_bc_matrix.h5") or n.endswith("probe_bc_matrix.h5") for n in names):
        return "visium"
    if "binned_outputs" in names or ("spatial" in names and any("feature_bc_matrix" in n for n in names)):
        return "visium"
    if {"counts", "spots"} <= names:
        return "st"
    if "metadata" in names and names & {"st", "wsis"}:
        return "hest"
    if {"images", "labels"} <= names or any(n.endswith("_inst.png") for n in names):
        return "masks"
    return ""


def _files(paths: list[Path]) -> Iterator[Found]:
    tables = {p.stem for p in paths if p.suffix == ".h5ad"}
    for path in paths:
        name = path.name.lower()
        if path.suffix == ".h5ad":
            beside = [p for p in paths if p.stem == path.stem and p.suffix.lower() in IMAGE_SUFFIXES]
            yield Found("h5ad", path, beside[0] if beside else None)
        elif path.suffix in (".h5", ".hdf5"):
            yield Found("features", path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem not in tables:
                yield Found("image", path)
        elif name.endswith(TABLE_SUFFIXES) and _is_wide(path):
            yield Found("bulk", path)


def _is_wide(path: Path) -> bool:
    """Whether a text table has several columns of numbers and hardly any of words."""
    import pandas as pd

    try:
        some = pd.read_csv(path, sep=None, engine="python", nrows=5, index_col=0)
    except Exception:
        return False
    numbers = sum(pd.api.types.is_numeric_dtype(some[c]) for c in some)
    return numbers >= _WIDE and numbers >= 0.8 * some.shape[1]
