"""Open a SpatialData zarr that holds a Xenium-like assay, or one that stpath wrote."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpath_core.errors import InputError
from stpath_core.io.counts import with_counts
from stpath_core.io.genes import unique_genes, with_symbols
from stpath_core.io.guard import check_zarr, reads, told
from stpath_core.io.section import Section
from stpath_core.io.xenium import outlines
from stpath_core.io.xenium_checks import check_nuclear_size

if TYPE_CHECKING:
    from anndata import AnnData

NUCLEI = ("nucleus_boundaries", "nuclei", "nucleus", "nuclei_boundaries", "cell_boundaries", "cells")
TABLES = ("table", "cells", "nuclei")
UM_SYSTEMS = ("um", "µm", "micrometers", "micrometres", "microns", "micron")  # names of coordinate systems
NO_GENE = re.compile(r"NegControl|BLANK|Unassigned|Deprecated|Intergenic|antisense", re.IGNORECASE)


@reads
def open_spatialdata(
    path: str | Path,
    *,
    mpp: float | None = None,
    nuclei: str | None = None,
    image: str | None = None,
    organ: str = "unknown",
    patient: str | None = None,
    min_qv: float = 20.0,
) -> Section:
    """Read nuclei, transcripts and image of a SpatialData zarr into a Section.

    nuclei, image : names of the elements; None: the usual names, an H&E before a DAPI picture. Without an H&E the
    nuclear stain is shown in grey and the section's `stain` says "DAPI". mpp : of the image, only where the store's
    coordinate systems leave it open; a store that disagrees is refused. min_qv : as in `open_xenium`.
    The table is another matter: see `spatialdata_table`.
    """
    path = Path(path)
    sdata = read_store(path)
    shapes = _choose(sdata.shapes, nuclei, NUCLEI, "shapes", path)
    picture = _choose(sdata.images, image, [n for n in sdata.images if re.search("he|h&e", n.lower())], "images", path)
    pixels, stain = _pixels(sdata[picture], picture)
    to_um, um_to_px, scale, place = _frames(sdata, shapes, picture, mpp, path)
    table, outline = outlines(sdata[shapes])
    outline_um = outline @ to_um[:2, :2].T + to_um[:2, 2]
    table[["x_um", "y_um"]] = table[["x_um", "y_um"]].to_numpy() @ to_um[:2, :2].T + to_um[:2, 2]
    table["area_um2"] *= abs(np.linalg.det(to_um[:2, :2]))
    ask = f"are the coordinates of {shapes!r} pixels where micrometres are expected? pass mpp"
    check_nuclear_size(path.name, table, ask=ask)
    transcripts, genes = _transcripts(sdata, table, min_qv, place)
    return Section(
        name=path.stem,
        organ=organ,
        patient=patient or path.stem,
        dataset="spatialdata",
        image=pixels,
        mpp=scale,
        nuclei=table,
        nuclei_px=(outline_um @ um_to_px[:2, :2].T + um_to_px[:2, 2]).astype(np.float32),
        transcripts=transcripts,
        genes=genes,
        um_to_px=um_to_px,
        stain=stain,
    )


@reads
def spatialdata_table(path: str | Path, *, table: str | None = None) -> AnnData:
    """The table of a SpatialData zarr, fit for typing: raw counts in X and layers["counts"], symbols as var_names.

    InputError where its genes have no names or its counts are not raw.
    """
    path = Path(path)
    sdata = read_store(path)
    name = _choose(sdata.tables, table, TABLES, "tables", path)
    adata = with_symbols(sdata[name], where=f"the table {name!r} of {path.name}")
    return unique_genes(with_counts(adata, where=f"the table {name!r} of {path.name}"), duplicates="refuse")


def read_store(path: Path):
    """A SpatialData object, without the noise of the packages below; or one clear error."""
    if not path.is_dir():
        message = f"{path} is not a folder; give a SpatialData zarr store"
        raise InputError(message)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # ome-zarr's notes about parents of labels
    try:
        check_zarr(path)
        with warnings.catch_warnings(action="ignore"):  # of the packages below: nothing a reader could act on
            import spatialdata

            return spatialdata.read_zarr(path)
    except InputError:
        raise
    except Exception as error:
        message = f"{path}: spatialdata cannot open it ({type(error).__name__}: {told(error)}); is the store whole?"
        raise InputError(message) from error
    finally:
        logging.disable(level)


def _choose(there, given: str | None, usual, kind: str, path: Path) -> str:
    """The name of an element: given, one of the usual, or the only one."""
    names = list(there)
    if given is not None and given in names:
        return given
    able = [n for n in usual if n in names] or (names if len(names) == 1 else [])
    if given is not None or not able:
        wanted = repr(given) if given is not None else "a usual name"
        message = f"{path.name} has no {kind} element of {wanted}; it has {', '.join(names) or 'none'}"
        raise InputError(message + (": name one" if names else ""))
    return able[0]


def _pixels(element, name: str) -> tuple[np.ndarray, str]:
    """(H, W, 3) uint8 and the stain: an RGB picture as it is, one of one channel in grey."""
    full = element["scale0"]["image"] if hasattr(element, "children") and "scale0" in element else element
    pixels = np.moveaxis(np.asarray(full.data), 0, -1)
    if pixels.shape[2] in (3, 4) and pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels[..., :3]), "H&E"
    if re.search("he|h&e", name.lower()):
        message = f"the image {name!r} is {pixels.dtype} with {pixels.shape[2]} channels; expected an 8-bit RGB H&E"
        raise InputError(message)
    first = pixels[..., 0].astype(np.float32)  # the nuclear stain comes first
    grey = np.clip(first / max(float(np.percentile(first, 99.8)), 1.0) * 255, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), "DAPI"


def _frames(sdata, shapes: str, picture: str, mpp: float | None, path: Path):
    """(3, 3) shapes -> um, (3, 3) um -> pixels, um per pixel, and a function that gives another element's (3, 3).

    Where a coordinate system is named as micrometres it decides. Elsewhere the shapes' own coordinates are um, as the
    vendor writes them, and what they are scaled by to lie on the image is the image's scale.
    """
    from spatialdata.transformations import get_transformation

    both = [get_transformation(sdata[name], get_all=True) for name in (shapes, picture)]
    shared = [s for s in both[0] if s in both[1]]
    if not shared:
        message = f"{path.name}: {shapes!r} and {picture!r} share no coordinate system, so nothing says how they lie"
        raise InputError(message + " on each other: register them first")
    metric = [s for s in shared if s.lower() in UM_SYSTEMS]
    system = (metric or shared)[0]
    of_shapes, of_image = (np.asarray(t[system].to_affine_matrix(("x", "y"), ("x", "y"))) for t in both)
    to_um = of_shapes if metric else np.eye(3)
    um_to_px = np.linalg.inv(of_image) @ of_shapes @ np.linalg.inv(to_um)

    def place(element) -> np.ndarray:
        there = get_transformation(element, get_all=True).get(system)
        own = of_shapes if there is None else np.asarray(there.to_affine_matrix(("x", "y"), ("x", "y")))
        return to_um @ np.linalg.inv(of_shapes) @ own

    implied = 1 / np.sqrt(abs(np.linalg.det(um_to_px[:2, :2])))
    if not metric and abs(implied - 1) < 1e-6 and mpp is None:
        message = f"{path.name}: shapes and image have one scale, so their unit stays open (um or pixels?): pass mpp"
        raise InputError(message)
    if not metric and abs(implied - 1) < 1e-6:  # everything in pixels
        to_um = np.diag([mpp, mpp, 1.0])
        return to_um, um_to_px @ np.linalg.inv(to_um), float(mpp), place
    if mpp is not None and abs(implied / mpp - 1) > 0.05:
        message = f"{path.name}: the store implies {implied:.4g} um per pixel, mpp={mpp} was given: correct one"
        raise InputError(message)
    return to_um, um_to_px, float(implied), place


def _transcripts(sdata, nuclei: pd.DataFrame, min_qv: float, place):
    """Transcripts of genes with the row of their nucleus, and the genes; (None, ()) where there are no points."""
    points = next((p for n, p in sdata.points.items() if "feature_name" in p.columns), None)
    if points is None:
        return None, ()
    useful = ("x", "y", "feature_name", "cell_id", "qv", "overlaps_nucleus", "is_gene")
    table = points[[c for c in useful if c in points.columns]].compute()
    names = table["feature_name"].astype(str)
    keep = table["is_gene"].astype(bool) if "is_gene" in table else ~names.str.contains(NO_GENE)
    if "qv" in table:
        keep &= table["qv"] >= min_qv
    table, names = table[keep.to_numpy()], names[keep.to_numpy()]
    affine = place(points)
    xy = table[["x", "y"]].to_numpy(float) @ affine[:2, :2].T + affine[:2, 2]
    genes = tuple(sorted(set(names)))
    out = pd.DataFrame({"x_um": xy[:, 0], "y_um": xy[:, 1], "gene": pd.Categorical(names, categories=list(genes))})
    if "cell_id" in table:
        out["nucleus"] = pd.Index(nuclei["cell_id"]).get_indexer(table["cell_id"].astype(str))
    for column in ("qv", "overlaps_nucleus"):
        if column in table:
            out[column] = table[column].to_numpy()
    return out, genes
