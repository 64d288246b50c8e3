"""Hand results on: outlines of a mask, GeoJSON for QuPath, SpatialData for the scverse."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.files import atomic_folder, atomic_path
from stpath_core.io.section import Section

if TYPE_CHECKING:
    from anndata import AnnData


def mask_outlines(instances: np.ndarray) -> dict[int, np.ndarray]:
    """Outline of every instance of an (H, W) mask: id -> (V, 2) x, y in pixels, along the pixels' outer edges.

    The largest part of an instance counts; holes are filled.
    """
    from scipy.ndimage import find_objects
    from skimage.measure import find_contours

    out = {}
    for i, box in enumerate(find_objects(instances), start=1):
        if box is None:
            continue
        part = np.pad(instances[box] == i, 1).astype(np.float32)
        contour = max(find_contours(part, 0.5), key=len)[:-1]  # (V, 2) row, col of pixel centres
        out[i] = contour[:, ::-1] + [box[1].start - 0.5, box[0].start - 0.5]
    return out


def write_geojson(
    path: str | Path,
    outlines_px: Mapping[int, np.ndarray],
    *,
    classes: Sequence[str] | None = None,
    colours: Mapping[str, tuple[int, int, int]] | None = None,
    measurements: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Write nuclei as QuPath detections, in pixels of the full-resolution image.

    outlines_px : id -> (V, 2). classes : one name per outline, in the same order; "unknown" stays unclassified.
    colours : class -> red, green, blue (0 to 255). measurements : name -> one number per outline.
    """
    n = len(outlines_px)
    for what, values in {"classes": classes, **(measurements or {})}.items():
        if values is not None and len(values) != n:
            message = f"{what} has {len(values)} entries for {n} outlines; give one per outline, in the same order"
            raise InputError(message)
    features = []
    for row, (i, outline) in enumerate(outlines_px.items()):
        ring = np.round(np.vstack([outline, outline[:1]]), 2).tolist()
        properties: dict = {"objectType": "detection", "name": str(i)}
        if classes is not None and classes[row] != keys.UNKNOWN:
            properties["classification"] = {"name": classes[row]}
            if colours and classes[row] in colours:
                properties["classification"]["color"] = [int(v) for v in colours[classes[row]]]
        if measurements:
            properties["measurements"] = {name: float(values[row]) for name, values in measurements.items()}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    with atomic_path(path) as aside:
        aside.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return Path(path)


def write_spatialdata(path: str | Path, section: Section, adata: AnnData | None = None) -> Path:
    """Write a section as SpatialData zarr: image, mask, outlines and (with `adata`) the table that annotates the mask.

    All elements share the coordinate system "um". adata : one row per nucleus of the section, in order, or a subset
    whose obs["cell_id"] names nuclei of the section.
    """
    import geopandas
    import shapely
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Scale

    to_um = {keys.SD_FRAME: Scale([section.mpp, section.mpp], axes=("x", "y"))}
    instances = section.instances()
    outlines = mask_outlines(instances)
    pixels = np.moveaxis(section.image, -1, 0)
    frame = geopandas.GeoDataFrame(geometry=[shapely.Polygon(o) for o in outlines.values()], index=list(outlines))
    elements: dict = {
        "images": {keys.SD_IMAGE: Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"],
                                                     transformations=to_um)},
        "labels": {keys.SD_LABELS: Labels2DModel.parse(instances, dims=("y", "x"), transformations=to_um)},
        "shapes": {keys.SD_NUCLEI: ShapesModel.parse(frame, transformations=to_um)},
    }  # fmt: skip
    if adata is not None:
        slots = {"region": keys.SD_LABELS, "region_key": "region", "instance_key": "instance_id"}
        elements["tables"] = {keys.SD_TABLE: TableModel.parse(_table(section, adata), **slots)}
    with warnings.catch_warnings(), atomic_folder(path) as aside:
        warnings.simplefilter("ignore")  # of the zarr packages below
        aside.rmdir()  # SpatialData makes the folder itself
        SpatialData(**elements).write(aside)
    return Path(path)


def _table(section: Section, adata: AnnData) -> AnnData:
    """The table with the instance id of each row."""
    row = {cell: i + 1 for i, cell in enumerate(section.nuclei["cell_id"])}
    unknown = [c for c in adata.obs[keys.CELL_ID].astype(str) if c not in row]
    if unknown:
        message = f"{len(unknown)} rows of the table, first {unknown[0]!r}, are no nuclei of {section.name}: pass the"
        raise InputError(message + " rows of this section only")
    table = adata.copy()
    table.obs["instance_id"] = [row[c] for c in table.obs[keys.CELL_ID].astype(str)]
    table.obs["region"] = keys.SD_LABELS
    table.obs["region"] = table.obs["region"].astype("category")
    return table
