"""What the checklist looks at, gathered from any format without judging it."""

from __future__ import annotations

import contextlib
import io as text_io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stpath_core import io, keys, labels, registration
from stpath_core.errors import InputError
from stpath_core.io.guard import check_hdf5
from stpath_core.io.reference import nearest_um, read_h5ad
from stpath_core.io.sniff import Found

SECTIONS = 4  # of a folder of many, the first so many are looked at
X_COLUMNS = (("x_pixel", "y_pixel"), ("x_centroid", "y_centroid"), ("x_um", "y_um"), ("x", "y"))


@dataclass
class Parts:
    """counts : a matrix. genes, ids : names. patients, types : one per cell or spot. size : what, value in um, and the
    plausible range. scores : registration as given and after the usual accidents. error : why it does not open.
    """

    counts: Any = None
    genes: list[str] | None = None
    ids: list[str] | None = None
    patients: list[str] | None = None
    sections: list[str] = field(default_factory=list)
    types: list[str] | None = None
    size: tuple[str, float, float, float] | None = None
    scores: dict[str, float] | None = None
    of_points: bool = False  # the scores are of spots, which only tell tissue from glass
    mpp: float | None = None
    opened: str = ""
    error: str = ""


def gather(found: Found, *, mpp: float | None = None) -> Parts:
    """Look at an item: first at its files one by one, so that one mistake does not hide another, then through its
    reader.

    mpp : um per pixel, where the files do not say.
    """
    parts = Parts()
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(text_io.StringIO()):
        with contextlib.suppress(Exception):  # what a file cannot give is left out; the reader below says why
            _FILES.get(found.kind, lambda *_: None)(found.path, parts)
        try:
            try:
                _READERS[found.kind](found, None, parts)
            except InputError as error:
                if mpp is None or "mpp" not in str(error):
                    raise
                _READERS[found.kind](found, mpp, parts)
        except InputError as error:
            parts.error = str(error).replace(str(found.path), found.path.name)
    return parts


def _xenium_files(path: Path, parts: Parts) -> None:
    import h5py
    import pyarrow.parquet as pq

    parts.patients, parts.sections = [path.name], [path.name]
    with contextlib.suppress(Exception):
        parts.ids = pq.read_table(path / "cells.parquet", columns=["cell_id"])["cell_id"].to_pylist()
    with contextlib.suppress(Exception):
        check_hdf5(path / "cell_feature_matrix.h5")
        with h5py.File(path / "cell_feature_matrix.h5", "r") as file:
            kind = np.array([t.decode() for t in file["matrix/features/feature_type"][...]])
            names = np.array([n.decode() for n in file["matrix/features/name"][...]])
            parts.genes = names[kind == "Gene Expression"].tolist()
            parts.counts = file["matrix/data"][...]
    table = pd.read_parquet(path / "nucleus_boundaries.parquet", columns=["label_id", "vertex_x", "vertex_y"])
    start = np.flatnonzero(np.r_[True, np.diff(table["label_id"]) != 0])
    x, y = table["vertex_x"].to_numpy(float), table["vertex_y"].to_numpy(float)
    cross = np.r_[x[:-1] * y[1:] - x[1:] * y[:-1], 0.0]
    cross[np.r_[start[1:] - 1, len(x) - 1]] = 0.0  # not from one polygon to the next
    area = np.abs(np.add.reduceat(cross, start)) / 2
    parts.size = _nuclear(area)


def _nuclear(area_um2: np.ndarray) -> tuple[str, float, float, float]:
    return "median nuclear diameter", float(2 * np.sqrt(np.median(area_um2) / np.pi)), 3.5, 12.0


def _h5ad_files(path: Path, parts: Parts) -> None:
    adata = read_h5ad(path)
    parts.counts, parts.genes, parts.ids = adata.X, list(adata.var_names), list(adata.obs_names)
    if keys.COUNTS in adata.layers:
        parts.counts = adata.layers[keys.COUNTS]


def _spatialdata_files(path: Path, parts: Parts) -> None:
    from stpath_core.io.sdata import read_store

    adata = next(iter(read_store(path).tables.values()))
    parts.counts, parts.genes, parts.ids = adata.X, list(adata.var_names), list(adata.obs_names)


_FILES: dict[str, Callable[[Path, Parts], None]] = {
    "xenium": _xenium_files, "h5ad": _h5ad_files, "spatialdata": _spatialdata_files,
}  # fmt: skip


def _section(section: io.Section, parts: Parts) -> None:
    parts.ids = parts.ids or section.nuclei["cell_id"].tolist()
    parts.patients, parts.sections, parts.mpp = [section.patient], [section.name], section.mpp
    parts.size = parts.size or _nuclear(section.nuclei["area_um2"].to_numpy())
    parts.genes = parts.genes or list(section.genes) or None
    if "type" in section.nuclei:
        parts.types = section.nuclei["type"].astype(str).tolist()
    parts.scores = {"as given": labels.registration_score(section)}
    if section.nuclei_px is not None:
        with contextlib.suppress(InputError):  # swapped, everything may lie outside the image
            parts.scores["x and y swapped"] = labels.registration_score(registration.swapped(section))
    molecules = "" if section.transcripts is None else f", {len(section.transcripts):,} transcripts"
    parts.opened = f"{len(section.nuclei):,} nuclei{molecules}, {section.stain} at {section.mpp:.3g} um per pixel"


def _table(adata, parts: Parts, *, image: np.ndarray | None = None, spots: bool = False) -> None:
    parts.counts, parts.genes = adata.layers[keys.COUNTS], list(adata.var_names)
    parts.ids = list(adata.obs_names)
    for slot, names in (("patients", (keys.DONOR, keys.PATIENT)), ("types", (keys.LABEL, keys.CELL_TYPE))):
        column = next((c for c in names if c in adata.obs), None)
        setattr(parts, slot, None if column is None else adata.obs[column].astype(str).tolist())
    parts.sections = sorted(set(adata.obs[keys.SECTION].astype(str))) if keys.SECTION in adata.obs else parts.sections
    parts.opened = f"{adata.n_obs:,} x {adata.n_vars:,} {'spots' if spots else 'cells'} x genes"
    if keys.FRAME not in adata.uns:
        return
    frame = io.frame_of(adata)
    parts.mpp, parts.of_points = frame.mpp, spots
    if frame.unit == "um" or frame.mpp is not None:
        limits = (90.0, 215.0) if spots else (3.0, 25.0)
        what = "median distance to the next " + ("spot" if spots else "cell")
        parts.size = (what, nearest_um(io.positions_um(adata)), *limits)
    if image is not None:
        xy = registration.alternatives(io.positions_px(adata), image.shape[:2])
        scale = frame.mpp if frame.mpp is not None else 1.0
        of = (lambda v: registration.tissue_score(image, v)) if spots else (
            lambda v: registration.centroid_score(image, v, mpp=scale))  # fmt: skip
        parts.scores = {name: of(v) for name, v in xy.items()}


def _xenium(found: Found, mpp: float | None, parts: Parts) -> None:
    _section(io.open_xenium(found.path, mpp=mpp), parts)


def _spatialdata(found: Found, mpp: float | None, parts: Parts) -> None:
    _section(io.open_spatialdata(found.path, mpp=mpp), parts)


def _visium(found: Found, mpp: float | None, parts: Parts) -> None:
    adata = io.open_visium(found.path, mpp=mpp)
    images = next(iter(adata.uns["spatial"].values()))["images"]
    _table(adata, parts, image=images.get("hires"), spots=True)


def _st(found: Found, mpp: float | None, parts: Parts) -> None:
    import anndata

    names = io.st_sections(found.path)
    labelled = io.st_sections(found.path, labelled=True)
    tables = io.open_st(found.path, ([n for n in names if n in labelled] or names)[:SECTIONS])
    shown = next((t for t in tables.values() if "image" in t.uns), None)
    if shown is not None:
        image, _ = io.read_image(shown.uns["image"], mpp=io.frame_of(shown).mpp)
        _table(shown, parts, image=image, spots=True)
    scores = parts.scores
    together = anndata.concat(tables)
    io.set_frame(together, io.Frame(unit="um"))
    together.obsm[keys.SPATIAL] += 1e5 * pd.factorize(together.obs[keys.SECTION])[0][:, None]  # sections lie apart
    _table(together, parts, spots=True)
    parts.scores, parts.patients = scores, [n[0] for n in names]
    parts.opened = f"{len(names)} sections, {len(labelled)} with labels; looked at {', '.join(tables)}"


def _hest(found: Found, mpp: float | None, parts: Parts) -> None:
    names = io.hest_samples(found.path)
    adata = io.open_hest(found.path, names[0])
    image = io.read_image(adata.uns["image"], mpp=io.frame_of(adata).mpp)[0] if "image" in adata.uns else None
    _table(adata, parts, image=image, spots=True)
    parts.opened = f"{len(names)} samples; looked at {names[0]}"


def _h5ad(found: Found, mpp: float | None, parts: Parts) -> None:
    image = None if found.image is None else io.read_image(found.image, mpp=mpp)[0]
    _table(_open_h5ad(found, mpp), parts, image=image)


def _open_h5ad(found: Found, mpp: float | None):
    """Cells with positions, in pixels where a picture lies beside them; a reference where there are no positions."""
    adata = read_h5ad(found.path)
    x, y = next((c for c in X_COLUMNS if set(c) <= set(adata.obs)), (None, None))
    if keys.SPATIAL not in adata.obsm and x is None:
        return io.open_reference(found.path)
    unit = "px" if found.image is not None or "pixel" in str(x) else "um"
    return io.open_cells(found.path, unit=unit, mpp=mpp, x=x, y=y, image=found.image)


def _open_masks(found: Found, mpp: float | None) -> list[io.Section]:
    known = [n for n, e in io.registry().items() if e.layout == "masks" and found.path.name.lower().startswith(n)]
    inst = "nucls" if list(found.path.glob("*_inst.png")) else "masks"
    return io.open_mask_folder(found.path, entry=(known or [inst])[0], mpp=mpp)


def opened(item: Found, *, mpp: float | None = None):
    """The first section or table of an item, as its reader gives it; None where a format has neither."""
    path = item.path
    if item.kind == "st":
        tables = (io.open_st(path, [name])[name] for name in io.st_sections(path))
        return next((t for t in tables if "image" in t.uns), None)
    openers = {
        "xenium": lambda: io.open_xenium(path), "spatialdata": lambda: io.open_spatialdata(path),
        "visium": lambda: io.open_visium(path), "hest": lambda: io.open_hest(path, io.hest_samples(path)[0]),
        "h5ad": lambda: _open_h5ad(item, mpp), "masks": lambda: _open_masks(item, mpp)[0],
    }  # fmt: skip
    return openers[item.kind]() if item.kind in openers else None


def _masks(found: Found, mpp: float | None, parts: Parts) -> None:
    tiles = _open_masks(found, mpp)
    _section(tiles[0], parts)
    parts.ids = None  # numbers of one mask: each its own
    parts.patients, parts.sections = [t.patient for t in tiles], [t.name for t in tiles]
    parts.size = _nuclear(np.concatenate([t.nuclei["area_um2"].to_numpy() for t in tiles]))
    parts.scores = {"as given": float(np.mean([labels.registration_score(t) for t in tiles if len(t.nuclei)]))}
    parts.types = [t for tile in tiles if "type" in tile.nuclei for t in tile.nuclei["type"]] or None
    parts.opened = f"{len(tiles)} images with masks, {sum(len(t.nuclei) for t in tiles):,} nuclei"


def _image(found: Found, mpp: float | None, parts: Parts) -> None:
    slide = io.open_slide(found.path, mpp=mpp)
    width, height = slide.size_um
    slide.region((0, 0), (min(width, 50), min(height, 50)))
    parts.mpp = slide.mpp
    parts.opened = (
        f"{slide.shapes[0][1]} x {slide.shapes[0][0]} px, {len(slide.shapes)} levels, {slide.mpp:.3g} um per pixel"
    )


def _features(found: Found, mpp: float | None, parts: Parts) -> None:
    got = io.read_features(found.path, mpp=mpp)
    parts.mpp = got.mpp
    parts.opened = f"{len(got.features):,} patches x {got.features.shape[1]} features"


def _bulk(found: Found, mpp: float | None, parts: Parts) -> None:
    adata = io.read_bulk(found.path)
    _table(adata, parts)
    parts.opened = f"{adata.n_obs:,} samples x {adata.n_vars:,} genes"


_READERS: dict[str, Callable[[Found, float | None, Parts], None]] = {
    "xenium": _xenium, "spatialdata": _spatialdata, "visium": _visium, "st": _st, "hest": _hest, "h5ad": _h5ad,
    "masks": _masks, "image": _image, "features": _features, "bulk": _bulk,
}  # fmt: skip
