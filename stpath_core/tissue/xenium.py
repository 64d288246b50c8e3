"""Write a section as a Xenium output bundle, the way spatialdata-io 0.7 reads it, with the truth beside it.

The folder holds what the vendor writes (experiment.xenium, cells, boundaries, transcripts, count matrix, masks,
DAPI image), the H&E as `<name>_he_image.ome.tif` with `<name>_he_imagealignment.csv`, and `truth/`, which only tests
and evaluations open.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix

from stpath_core.io.files import atomic_folder
from stpath_core.tissue.cell_assay import ASSAY_MPP, CONTROLS, Measurement, count_matrix
from stpath_core.tissue.effects import Effects
from stpath_core.tissue.genes import panel
from stpath_core.tissue.histology import instance_mask

if TYPE_CHECKING:
    from stpath_core.tissue.architecture import Architecture

SOFTWARE = "xenium-2.0.0.6"  # the layout that is written; the reader branches on it
COMPLETE = "truth/complete.json"  # written last
UNASSIGNED = "UNASSIGNED"
_PACKED = {"compression": "zlib", "compressionargs": {"level": 1}, "rowsperstrip": 256}


def write_bundle(
    folder: str | Path,
    arch: Architecture,
    image: np.ndarray,
    measurement: Measurement,
    *,
    mpp: float,
    effects: Effects,
    name: str,
    settings: dict | None = None,
) -> Path:
    """Write one section to `folder`, all of it or nothing.

    image : (H, W, 3) uint8 H&E at `mpp` um per pixel. settings : what the section was made from, kept in the truth.
    """
    folder = Path(folder)
    ids = cell_names(len(measurement.true_cell))
    matrix = count_matrix(measurement)
    with atomic_folder(folder) as out:
        _write_specs(out, arch, name=name, n_cells=len(ids), n_transcripts=len(measurement.transcripts))
        _write_image(out / f"{name}_he_image.ome.tif", image, mpp)
        claimed = _claimed_alignment(measurement, mpp)
        np.savetxt(out / f"{name}_he_imagealignment.csv", claimed, delimiter=",", fmt="%.12g")
        _write_dapi(out, measurement)
        _write_boundaries(out / "nucleus_boundaries.parquet", measurement.nuclei_um, ids)
        _write_boundaries(out / "cell_boundaries.parquet", measurement.cells_um, ids)
        _write_transcripts(out / "transcripts.parquet", measurement, ids)
        summary = _write_cells(out / "cells.parquet", measurement, matrix, ids)
        _write_matrix(out / "cell_feature_matrix.h5", measurement, matrix, ids)
        _write_masks(out / "cells.zarr.zip", measurement, summary)
        _write_truth(out / "truth", arch, measurement, image.shape[:2], ids, mpp=mpp, effects=effects)
        (out / COMPLETE).write_text(json.dumps(settings or {}, indent=1))
    return folder


def cell_names(n: int, *, suffix: int = 1) -> np.ndarray:
    """The vendor's names of cells 1..n: eight letters a to p (the number in base 16), dash, suffix."""
    shifts = np.array([28, 24, 20, 16, 12, 8, 4, 0], dtype=np.uint32)
    letters = ((np.arange(1, n + 1, dtype=np.uint32)[:, None] >> shifts) & 0xF) + ord("a")
    return np.char.add(letters.astype(np.uint8).view("S8").ravel().astype("U8"), f"-{suffix}")


def _claimed_alignment(measurement: Measurement, mpp: float) -> np.ndarray:
    """What the alignment file says: H&E pixel -> pixel of the assay's image, (3, 3)."""
    to_px = np.diag([1 / mpp, 1 / mpp, 1.0]) @ measurement.to_image_claimed @ np.diag([ASSAY_MPP, ASSAY_MPP, 1.0])
    return np.linalg.inv(to_px)


def _write_specs(out: Path, arch: Architecture, *, name: str, n_cells: int, n_transcripts: int) -> None:
    specs = {
        "major_version": 5,
        "minor_version": 0,
        "patch_version": 0,
        "run_name": "stpath virtual tissue",
        "region_name": name,
        "preservation_method": "ffpe",
        "num_cells": n_cells,
        "num_transcripts": n_transcripts,
        "panel_name": "stpath virtual panel",
        "panel_organism": "Human",
        "panel_num_targets_predesigned": len(panel()),
        "panel_tissue_type": arch.organ,
        "pixel_size": ASSAY_MPP,
        "analysis_sw_version": SOFTWARE,
        "stpath": {"dataset": "virtual", "organ": arch.organ, "patient": f"{arch.organ}-{arch.patient}"},
    }
    (out / "experiment.xenium").write_text(json.dumps(specs, indent=1))


def _write_image(path: Path, image: np.ndarray, mpp: float) -> None:
    """Interleaved RGB with its pixel size: planar RGB would not load."""
    metadata = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp}
    metadata["PhysicalSizeYUnit"] = "µm"
    tifffile.imwrite(path, image, photometric="rgb", ome=True, metadata=metadata, tile=(512, 512))


def _write_dapi(out: Path, measurement: Measurement) -> None:
    """The instrument's own nuclear stain, one channel: what its segmentation was made from."""
    stain = gaussian_filter((measurement.nucleus_mask > 0).astype(np.float32), 1.5)
    rng = np.random.default_rng(0)
    grain = rng.normal(1, 0.15, (256, 256)).astype(np.float32)  # repeated: only the eye looks at it
    tiles = [-(-n // 256) for n in stain.shape]
    noisy = (80 + 2500 * stain) * np.tile(grain, tiles)[: stain.shape[0], : stain.shape[1]]
    folder = out / "morphology_focus"
    folder.mkdir()
    metadata = {"axes": "YX", "PhysicalSizeX": ASSAY_MPP, "PhysicalSizeY": ASSAY_MPP, "Channel": {"Name": "DAPI"}}
    metadata |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    path = folder / "morphology_focus_0000.ome.tif"
    grey = noisy.astype(np.uint16) & 0xFFF0  # finer than that is noise, and would not compress
    tifffile.imwrite(path, grey, ome=True, metadata=metadata, **_PACKED)


def _write_boundaries(path: Path, polygons_um: np.ndarray, ids: np.ndarray) -> None:
    """Closed rings, the rows of a polygon together, with the label that the mask gives it."""
    n, v = polygons_um.shape[:2]
    closed = np.concatenate([polygons_um, polygons_um[:, :1]], axis=1).reshape(-1, 2).astype(np.float32)
    row = np.repeat(np.arange(n, dtype=np.int32), v + 1)
    table = pa.table(
        {
            "cell_id": pa.DictionaryArray.from_arrays(row, ids).cast(pa.string()),
            "vertex_x": np.ascontiguousarray(closed[:, 0]),
            "vertex_y": np.ascontiguousarray(closed[:, 1]),
            "label_id": (row + 1).astype(np.int64),
        }
    )
    pq.write_table(table, path)


def _write_transcripts(path: Path, measurement: Measurement, ids: np.ndarray) -> None:
    t = measurement.transcripts
    names = pa.array(np.r_[[UNASSIGNED], ids] if len(ids) else [UNASSIGNED])
    table = pa.table(
        {
            "transcript_id": np.arange(1, len(t) + 1, dtype=np.uint64),
            "cell_id": pa.DictionaryArray.from_arrays(pa.array(t["cell"].to_numpy(np.int32)), names),
            "overlaps_nucleus": t["in_nucleus"].to_numpy(),
            "feature_name": pa.DictionaryArray.from_arrays(
                pa.array(t["feature"].to_numpy(np.int32)), pa.array(measurement.features)
            ),
            "x_location": t["x_um"].to_numpy(),
            "y_location": t["y_um"].to_numpy(),
            "z_location": t["z_um"].to_numpy(),
            "qv": t["qv"].to_numpy(),
        }
    )
    # the vendor's columns are plain strings on disk: readers test for them
    for i, column in ((1, "cell_id"), (3, "feature_name")):
        table = table.set_column(i, column, table[column].cast(pa.string()))
    pq.write_table(table, path, use_dictionary=["cell_id", "feature_name"])


def _write_cells(path: Path, measurement: Measurement, matrix: csr_matrix, ids: np.ndarray) -> pd.DataFrame:
    centre = measurement.cells_um.mean(1) if len(ids) else np.zeros((0, 2))
    n_genes = len(measurement.features) - len(CONTROLS)
    counts = np.asarray(matrix[:, :n_genes].sum(1)).ravel()
    controls = np.asarray(matrix[:, n_genes:].sum(1)).ravel()
    frame = pd.DataFrame(
        {
            "cell_id": ids,
            "x_centroid": centre[:, 0].astype(np.float64),
            "y_centroid": centre[:, 1].astype(np.float64),
            "transcript_counts": counts.astype(np.int64),
            "control_probe_counts": controls.astype(np.int64),
            "total_counts": (counts + controls).astype(np.int64),
            "cell_area": polygon_area(measurement.cells_um),
            "nucleus_area": polygon_area(measurement.nuclei_um),
            "nucleus_count": np.ones(len(ids), np.int64),
            "segmentation_method": "Segmented by nucleus expansion",
        }
    )
    frame.to_parquet(path, index=False)
    return frame


def polygon_area(polygons: np.ndarray) -> np.ndarray:
    """Areas of (N, V, 2) polygons, (N,), by the shoelace formula."""
    x, y = polygons[..., 0].astype(np.float64), polygons[..., 1].astype(np.float64)
    return np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)) / 2


def _write_matrix(path: Path, measurement: Measurement, matrix: csr_matrix, ids: np.ndarray) -> None:
    """The count matrix in the vendor's HDF5 layout: features x cells, compressed by cell."""
    n_genes = len(measurement.features) - len(CONTROLS)
    kinds = ["Gene Expression"] * n_genes + ["Negative Control Probe"] * len(CONTROLS)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = ids.astype("S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices.astype(np.int64), matrix.indptr
        group["shape"] = np.array(matrix.shape[::-1], dtype=np.int32)
        features = group.create_group("features")
        features["id"] = features["name"] = np.array(measurement.features, dtype="S")
        features["feature_type"] = np.array(kinds, dtype="S")
        features["genome"] = np.array(["Unknown"] * len(kinds), dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def _write_masks(path: Path, measurement: Measurement, cells: pd.DataFrame) -> None:
    """The instrument's masks and cell summary: a zipped zarr of version 2."""
    import zarr

    n = len(cells)
    with zarr.storage.ZipStore(path, mode="w") as store:
        root = zarr.open_group(store, mode="w", zarr_format=2)
        prefix = np.stack([np.arange(1, n + 1), np.ones(n)], axis=1).astype(np.uint32)
        _put(root, "cell_id", prefix)
        names = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
        names += ["nucleus_area", "z_level", "nucleus_count"]
        nuclei = measurement.nuclei_um.mean(1) if n else np.zeros((0, 2))
        columns = [cells["x_centroid"], cells["y_centroid"], cells["cell_area"], nuclei[:, 0], nuclei[:, 1]]
        columns += [cells["nucleus_area"], np.full(n, 2.5), np.ones(n)]
        summary = np.stack([np.asarray(c, np.float64) for c in columns], axis=1)
        _put(root, "cell_summary", summary, attributes={"column_names": names})
        _put(root, "masks/0", measurement.nucleus_mask.astype(np.uint32), chunks=(1024, 1024))
        _put(root, "masks/1", measurement.cell_mask.astype(np.uint32), chunks=(1024, 1024))
        for kind in "01":
            _put(root, f"polygon_sets/{kind}/cell_index", np.arange(n, dtype=np.uint32))


def _put(root, name: str, data: np.ndarray, *, chunks: tuple[int, ...] | None = None, attributes=None) -> None:
    """Store an array, in one chunk unless said otherwise. Attributes go in at once: a zip cannot rewrite an entry."""
    shape = chunks or tuple(max(1, size) for size in data.shape)
    array = root.create_array(name, shape=data.shape, dtype=data.dtype, chunks=shape, attributes=attributes)
    array[...] = data


def _write_truth(out: Path, arch, measurement: Measurement, shape, ids, *, mpp: float, effects: Effects) -> None:
    """What the section really is, in the image frame: opened by tests and evaluations only."""
    out.mkdir()
    keep = ["x_um", "y_um", "cell_type", "super_class", "region", "structure"]
    arch.cells[keep].reset_index(names="cell_id").to_parquet(out / "cells.parquet", index=False)
    np.save(out / "nuclei_um.npy", np.asarray(arch.nuclei_um, np.float32))
    instances = instance_mask(arch.nuclei_um, mpp=mpp, shape=shape)
    tifffile.imwrite(out / "instances.tif", instances, **_PACKED)
    links = pd.DataFrame({"cell_id": ids, "true_cell": measurement.true_cell, "kind": measurement.kind})
    links.to_parquet(out / "links.parquet", index=False)
    affine = {
        "assay_um_to_image_um": measurement.to_image.tolist(),
        "claimed_assay_um_to_image_um": measurement.to_image_claimed.tolist(),
        "mpp": mpp,
    }
    (out / "affine.json").write_text(json.dumps(affine, indent=1))
    (out / "effects.json").write_text(json.dumps(effects.as_dict(), indent=1))
