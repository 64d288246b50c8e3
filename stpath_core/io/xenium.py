"""Open a Xenium output bundle with its H&E: checked first, then read through spatialdata-io, in one frame."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from stpath_core.errors import InputError
from stpath_core.io.guard import check_hdf5, check_parquet, check_tiff, reads, told
from stpath_core.io.section import LargeSection, Section
from stpath_core.io.slides import open_slide
from stpath_core.io.xenium_checks import check_finite, check_nuclear_size, check_place, refuse_outside
from stpath_core.io.xenium_transcripts import read_transcripts

COLUMNS = {
    "cells.parquet": ("cell_id", "x_centroid", "y_centroid", "cell_area"),
    "nucleus_boundaries.parquet": ("cell_id", "vertex_x", "vertex_y", "label_id"),
    "cell_boundaries.parquet": ("cell_id", "vertex_x", "vertex_y"),
    "transcripts.parquet": ("cell_id", "feature_name", "x_location", "y_location", "z_location"),
}
OTHER_FILES = ("experiment.xenium", "cell_feature_matrix.h5", "cells.zarr.zip")


@reads
def open_xenium(
    folder: str | Path,
    *,
    organ: str | None = None,
    patient: str | None = None,
    mpp: float | None = None,
    min_qv: float = 20.0,
) -> Section:
    """Read a bundle that holds `*he_image.ome.tif` and its `*he_imagealignment.csv` into a Section.

    organ, patient : for the section's record; a virtual bundle knows its own. mpp : of the H&E, only where its
    metadata does not say. min_qv : transcripts below are left out, as in the vendor's count matrix.
    """
    folder = Path(folder)
    specs, image_file = check_bundle(folder)
    sdata = _read(folder)
    own = specs.get("stpath", {})
    pixels, mpp = _image(sdata, image_file, mpp)
    um_to_px = _affine(sdata, image_file, mpp)
    nuclei, outlines_um = outlines(sdata["nucleus_boundaries"])
    nuclei_px = outlines_um @ um_to_px[:2, :2].T + um_to_px[:2, 2]
    genes = tuple(map(str, sdata["table"].var_names))
    transcripts = read_transcripts(folder / "transcripts.parquet", nuclei, genes, min_qv=min_qv)
    check_nuclear_size(folder, nuclei)
    check_place(folder, nuclei_px, transcripts, um_to_px, pixels.shape[:2])
    return Section(
        name=str(specs.get("region_name") or folder.name) if own else folder.name,
        organ=organ or own.get("organ", "unknown"),
        patient=patient or own.get("patient", folder.name),
        dataset=own.get("dataset", "xenium"),
        image=pixels,
        mpp=mpp,
        nuclei=nuclei,
        nuclei_px=nuclei_px.astype(np.float32),
        transcripts=transcripts,
        genes=genes,
        um_to_px=um_to_px,
        truth=_truth(folder),
    )


@reads
def open_large_xenium(
    folder: str | Path,
    *,
    organ: str | None = None,
    patient: str | None = None,
    mpp: float | None = None,
    min_qv: float = 20.0,
) -> LargeSection:
    """Open a bundle whose picture and transcripts do not fit into memory; the arguments are those of `open_xenium`.

    Nuclei and their outlines are read; transcripts are looked at when they are counted (`large.count_transcripts`).
    """
    folder = Path(folder)
    specs, image_file = check_bundle(folder)
    sdata = _read(folder)
    own = specs.get("stpath", {})
    slide = open_slide(image_file, mpp=mpp)
    um_to_px = _affine(sdata, image_file, slide.mpp)
    nuclei, outlines_um = outlines(sdata["nucleus_boundaries"])
    nuclei_px = outlines_um @ um_to_px[:2, :2].T + um_to_px[:2, 2]
    check_nuclear_size(folder, nuclei)
    centres = nuclei_px.mean(1)
    inside = ((centres >= 0) & (centres <= slide.shapes[0][::-1])).all(1).mean()
    refuse_outside(folder, "nuclei", float(inside), slide.shapes[0])
    return LargeSection(
        name=str(specs.get("region_name") or folder.name) if own else folder.name,
        organ=organ or own.get("organ", "unknown"),
        patient=patient or own.get("patient", folder.name),
        slide=slide,
        nuclei=nuclei,
        nuclei_px=nuclei_px.astype(np.float32),
        transcripts=folder / "transcripts.parquet",
        genes=tuple(map(str, sdata["table"].var_names)),
        um_to_px=um_to_px,
        min_qv=min_qv,
    )


def find_bundles(folder: str | Path) -> list[Path]:
    """The bundles in a folder: itself, or every folder below that holds an experiment.xenium, in order."""
    found = sorted(p.parent for p in Path(folder).rglob("experiment.xenium")) if str(folder) else []
    if not found:
        message = f"data_dir={str(folder)!r} holds no experiment.xenium: give a Xenium output folder, or one of several"
        raise InputError(message)
    return found


def open_bundles(folders: Sequence[str | Path]) -> list[Section]:
    """Open several bundles; where folders share a name (`run1/outs`, `run2/outs`) sections are named by their paths.

    A patient that no record names is taken to be the section itself.
    """
    sections = [open_xenium(folder) for folder in folders]
    names = [s.name for s in sections]
    if len(set(names)) == len(names):
        return sections
    paths = [Path(folder).resolve() for folder in folders]
    root = Path(os.path.commonpath([p.parent for p in paths]))
    names = ["_".join(p.relative_to(root).parts) for p in paths]
    return [
        replace(s, name=name, patient=name if s.patient == path.name else s.patient)
        for s, name, path in zip(sections, names, paths, strict=True)
    ]


def check_bundle(folder: str | Path) -> tuple[dict, Path]:
    """Look at every file of a bundle before any is used. Returns the specifications and the path of the H&E."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    if not folder.is_dir():
        message = f"{folder} is not a folder; give the output folder of a Xenium run"
        raise InputError(message)
    absent = [name for name in (*COLUMNS, *OTHER_FILES) if not (folder / name).is_file()]
    if absent:
        message = f"{folder} lacks {', '.join(absent)}: copy the whole output folder of the run"
        raise InputError(message)
    try:
        specs = json.loads((folder / "experiment.xenium").read_text())
        float(specs["pixel_size"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{folder / 'experiment.xenium'} is not the run's JSON with a pixel_size ({told(error)}): copy it"
        raise InputError(message) from error
    for name, needed in COLUMNS.items():
        try:
            check_parquet(folder / name)
            file = pq.ParquetFile(folder / name)
        except (pa.ArrowInvalid, OSError) as error:
            message = f"{folder / name} is truncated or not a parquet file ({told(error)}): copy it again"
            raise InputError(message) from error
        lacking = [column for column in needed if column not in file.schema_arrow.names]
        if lacking:
            message = f"{folder / name} lacks the columns {lacking}; it has {file.schema_arrow.names}"
            raise InputError(message)
        if file.metadata.num_rows == 0:
            message = f"{folder / name} has no rows: the slide is empty, there is nothing to label"
            raise InputError(message)
        if name != "transcripts.parquet":  # these are looked at when they are read: they are many
            coordinates = [column for column in needed if column.endswith(("_x", "_y", "_centroid"))]
            check_finite(folder / name, pq.read_table(folder / name, columns=coordinates), coordinates)
    ids = pq.read_table(folder / "cells.parquet", columns=["cell_id"])["cell_id"]
    if len(ids.unique()) != len(ids):
        repeated = ids.value_counts().to_pylist()
        example = next(v["values"] for v in repeated if v["counts"] > 1)
        message = f"{folder / 'cells.parquet'} has {len(ids)} rows, {len(ids.unique())} cell ids (twice: {example!r})"
        raise InputError(message + ": every cell needs its own id")
    if not zipfile.is_zipfile(folder / "cells.zarr.zip"):
        message = f"{folder / 'cells.zarr.zip'} is truncated or not a zip file: copy it again"
        raise InputError(message)
    _check_counts(folder / "cell_feature_matrix.h5")
    return specs, _check_image(folder)


def _check_counts(path: Path) -> None:
    """The count matrix must hold raw counts and gene names."""
    import h5py

    try:
        check_hdf5(path)
        with h5py.File(path, "r") as file:
            data, names = file["matrix/data"][...], file["matrix/features/name"][...]
    except (OSError, KeyError) as error:
        message = f"{path} is truncated or not the vendor's count matrix ({told(error)}): copy it again"
        raise InputError(message) from error
    if len(data) and (data.min() < 0 or (data.dtype.kind == "f" and np.any(data % 1))):
        worst = data[(data < 0) | (data % 1 != 0)][0]
        message = f"{path} holds {worst:g}; raw counts are whole numbers >= 0: give the matrix before normalisation"
        raise InputError(message)
    if all(name.isdigit() for name in names[:50]):
        message = f"{path} names its genes {[n.decode() for n in names[:3]]}; gene symbols are needed to type cells"
        raise InputError(message)


def _check_image(folder: Path) -> Path:
    """Find the one H&E, its alignment, and see that it is interleaved RGB."""
    import tifffile

    found = sorted(folder.glob("*he_image.ome.tif"))
    if len(found) != 1:
        message = f"{folder} has {len(found)} files *he_image.ome.tif; expected one: add the H&E of this section"
        raise InputError(message)
    alignment = found[0].with_name(found[0].name.replace(".ome.tif", "alignment.csv"))
    if not alignment.is_file():
        message = f"{alignment.name} is missing beside {found[0].name}: without it the H&E lies anywhere; export it"
        raise InputError(message + " from the alignment step (3 x 3 matrix, H&E pixels to assay pixels)")
    try:
        matrix = pd.read_csv(alignment, header=None).to_numpy(float)
    except ValueError as error:
        message = f"{alignment} is not a table of numbers ({told(error)}); expected a 3 x 3 matrix"
        raise InputError(message) from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:2, :2])) < 1e-9:
        message = f"{alignment} has shape {matrix.shape}; expected an invertible 3 x 3 matrix"
        raise InputError(message + " from H&E pixels to assay pixels")
    try:
        with tifffile.TiffFile(found[0]) as file:
            check_tiff(found[0], file)
            shape, axes = file.series[0].shape, file.series[0].axes
            file.pages[0].asarray()
    except InputError:
        raise
    except Exception as error:
        message = f"{found[0]} cannot be read as an image ({told(error)}): copy it again"
        raise InputError(message) from error
    if len(shape) != 3 or shape[-1] != 3:
        message = f"{found[0].name} is stored as {axes} {shape}; expected interleaved RGB, (H, W, 3): write it again so"
        raise InputError(message)
    return found[0]


def _read(folder: Path):
    """spatialdata-io does the reading; masks and the DAPI image, which no lesson needs, stay on the disk."""
    with warnings.catch_warnings(action="ignore"):  # of the packages below: nothing a reader of ours could act on
        from spatialdata_io import xenium

        try:
            return xenium(
                folder, cells_boundaries=False, cells_labels=False, nucleus_labels=False, transcripts=False,
                morphology_mip=False, morphology_focus=False,
            )  # fmt: skip
        except Exception as error:
            message = (
                f"{folder}: spatialdata-io cannot open it ({type(error).__name__}: {told(error)}); is the run whole?"
            )
            raise InputError(message) from error


def _image(sdata, path: Path, mpp: float | None) -> tuple[np.ndarray, float]:
    """H&E pixels (H, W, 3) from the opened object, and its scale from the file."""
    import tifffile

    from stpath_core.io.images import tiff_mpp

    with tifffile.TiffFile(path) as file:
        own = tiff_mpp(file)
    if own is None and mpp is None:
        message = f"{path.name} does not say how many micrometres a pixel is: export it again with its pixel size (OME "
        message += "PhysicalSizeX), or write it in: `tifffile.imwrite(file, tifffile.imread(file), photometric='rgb', "
        message += "metadata={'axes': 'YXS', 'PhysicalSizeX': MPP})`; in code of your own, open_xenium(folder, mpp=MPP)"
        raise InputError(message)
    pixels = np.asarray(sdata["he_image"]["scale0"]["image"].data)
    pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
    spread = pixels[::4, ::4].std()
    if pixels.dtype != np.uint8 or spread < 1:
        message = f"{path.name} is {pixels.dtype} with SD {spread:.2g}; expected an 8-bit H&E with tissue on it"
        raise InputError(message)
    return pixels, float(own if own is not None else mpp)


def _affine(sdata, path: Path, mpp: float) -> np.ndarray:
    """(3, 3) assay um -> H&E pixels; its scale must be the image's own."""
    from spatialdata.transformations import get_transformation

    axes = ("x", "y")
    to_global = get_transformation(sdata["he_image"]).to_affine_matrix(axes, axes)
    scale = get_transformation(sdata["nucleus_boundaries"]).to_affine_matrix(axes, axes)
    um_to_px = np.linalg.inv(to_global) @ scale
    implied = 1 / np.sqrt(abs(np.linalg.det(um_to_px[:2, :2])))
    if abs(implied / mpp - 1) > 0.05:
        message = f"{path.name} has {mpp:.4g} um per pixel, but its alignment implies {implied:.4g}: correct one"
        raise InputError(message)
    return um_to_px


def outlines(frame) -> tuple[pd.DataFrame, np.ndarray]:
    """Nuclei (N rows) and outlines (N, V, 2) of a GeoDataFrame, in its unit; shorter outlines repeat their end."""
    import shapely

    ids = frame.get("cell_id", frame.index)
    coordinates, row = shapely.get_coordinates(frame.geometry.values, return_index=True)
    length = np.bincount(row, minlength=len(frame)) - 1  # rings are closed: the last vertex is the first
    start = np.r_[0, np.cumsum(length + 1)[:-1]]
    take = start[:, None] + np.minimum(np.arange(length.max()), length[:, None] - 1)
    centre = shapely.get_coordinates(shapely.centroid(frame.geometry.values))
    nuclei = pd.DataFrame(
        {
            "cell_id": np.asarray(ids, dtype=str),
            "x_um": centre[:, 0],
            "y_um": centre[:, 1],
            "area_um2": shapely.area(frame.geometry.values),
        }
    )
    return nuclei, coordinates[take]


def _truth(folder: Path) -> dict | None:
    """Planted truth of a virtual bundle: cells, links, instances (H, W), nuclei_um, affine; None elsewhere."""
    root = folder / "truth"
    if not (root / "complete.json").is_file():
        return None
    import tifffile

    return {
        "cells": pd.read_parquet(root / "cells.parquet"),
        "links": pd.read_parquet(root / "links.parquet"),
        "instances": tifffile.imread(root / "instances.tif"),
        "nuclei_um": np.load(root / "nuclei_um.npy"),
        "affine": json.loads((root / "affine.json").read_text()),
        "effects": json.loads((root / "effects.json").read_text()),
    }
