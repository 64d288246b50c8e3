"""Open a Visium section as Space Ranger 1 to 3 writes it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.counts import note, with_counts
from stpath_core.io.frame import Frame, set_frame
from stpath_core.io.genes import unique_genes
from stpath_core.io.guard import check_hdf5, check_picture, reads, told

if TYPE_CHECKING:
    from anndata import AnnData

PITCH_UM = 100.0  # between the centres of neighbouring spots, on every Visium slide of 55 um spots
# What `spot_diameter_fullres` spans. A spot is printed 55 um wide, but in Space Ranger's own 1.0.0 output the diameter
# is 89.4 px where the pitch of 100 um is 138 px: 65 um. So the scale is taken from the pitch, not from the diameter.
DIAMETER_UM = (55.0, 65.0)
COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


@reads
def open_visium(
    folder: str | Path,
    *,
    patient: str | None = None,
    section: str | None = None,
    mpp: float | None = None,
    in_tissue: bool = True,
    duplicates: Literal["refuse", "sum", "number"] = "refuse",
) -> AnnData:
    """Read the folder that holds `filtered_feature_bc_matrix.h5` (or raw, or the folder of that name) and `spatial/`.

    Returns spots x genes, raw counts in X and layers["counts"]; obsm["spatial"] is x, y in pixels of the
    full-resolution image, and uns["frame"] says so. uns["spatial"] is what squidpy draws from.
    mpp : of the full-resolution image; None: derived from the spots' pitch of 100 um, and marked as derived.
    in_tissue : leave out the spots that are not under tissue. duplicates : see `unique_genes`.
    """
    folder = Path(folder)
    _refuse_other_layouts(folder)
    adata = unique_genes(_matrix(folder), duplicates=duplicates, where=folder.name)
    adata = with_counts(adata, where=folder.name)
    places = _positions(folder / "spatial")
    absent = adata.obs_names[~adata.obs_names.isin(places.index)]
    if len(absent):
        message = f"{folder}: {len(absent)} of {len(adata)} barcodes, first {absent[0]!r}, have no position: are "
        raise InputError(message + "matrix and spatial/ of one run?")
    adata.obs = places.loc[adata.obs_names, COLUMNS[1:4]].astype(int)
    adata.obsm[keys.SPATIAL] = places.loc[adata.obs_names, COLUMNS[:3:-1]].to_numpy(float)  # x is the column
    adata.obs[keys.SECTION] = section or folder.resolve().name
    adata.obs[keys.PATIENT] = patient or section or folder.resolve().name
    pitch = pitch_px(places)
    scale = _scalefactors(folder / "spatial")
    derived = PITCH_UM / pitch
    if mpp is not None and abs(derived / mpp - 1) > 0.1:
        message = f"{folder}: spots lie {pitch:.1f} px apart, which makes {derived:.3g} um per pixel; mpp={mpp} given"
        raise InputError(message + ": is it the scale of another image?")
    origin = "given" if mpp is not None else "derived: pitch of the spots, 100 um"
    images, k = _images(folder / "spatial"), scale["tissue_hires_scalef"]
    to_image = ((k, 0.0, 0.0), (0.0, k, 0.0), (0.0, 0.0, 1.0)) if "hires" in images else None
    set_frame(adata, Frame(unit="px", mpp=mpp or derived, mpp_from=origin, to_image=to_image))
    library = {"images": images, "scalefactors": scale, "metadata": {"source_image_path": ""}}
    adata.uns["spatial"] = {adata.obs[keys.SECTION].iloc[0]: library}
    spread = scale["spot_diameter_fullres"] * derived
    if not DIAMETER_UM[0] * 0.85 < spread < DIAMETER_UM[1] * 1.15:
        note(adata, f"{folder.name}: spot_diameter_fullres spans {spread:.0f} um by the spots' pitch, not 55 to 65")
    if not in_tissue:
        return adata
    kept = adata[adata.obs[keys.IN_TISSUE] == 1].copy()
    if not len(kept):
        message = f"{folder}: no spot with counts lies under tissue; pass in_tissue=False to see the others"
        raise InputError(message)
    return kept


def pitch_px(places: pd.DataFrame) -> float:
    """Distance of neighbouring spots in pixels, from a plane through their array positions.

    places : columns array_row, array_col, pxl_row_in_fullres, pxl_col_in_fullres. The two neighbours of a spot in its
    row are two columns away.
    """
    design = np.column_stack([places[["array_row", "array_col"]].to_numpy(float), np.ones(len(places))])
    if len(places) < 4 or np.linalg.matrix_rank(design) < 3:
        message = f"{len(places)} spots in a line or fewer than four: their pitch cannot be measured; pass all spots"
        raise InputError(message)
    step = np.linalg.lstsq(design, places[COLUMNS[4:]].to_numpy(float), rcond=None)[0]  # (3, 2) px per row, column
    # a step of one row and one of one column span sqrt(3) / 4 pitch^2
    return float(np.sqrt(2 * abs(np.linalg.det(step[:2])) / np.sqrt(0.75)))


def _refuse_other_layouts(folder: Path) -> None:
    if not folder.is_dir():
        message = f"{folder} is not a folder; give the `outs` folder of Space Ranger"
        raise InputError(message)
    if (folder / "binned_outputs").is_dir() or (folder / "spatial" / "tissue_positions.parquet").is_file():
        message = f"{folder} is Visium HD: bins of 2 to 16 um without spots. It is not read as Visium: aggregate its "
        raise InputError(message + "bins to cells or spots first, and give the result as h5ad")
    if not _matrices(folder) and list(folder.glob("*raw_probe_bc_matrix.h5")):
        message = f"{folder} holds counts per probe (raw_probe_bc_matrix.h5), not per gene: give the run's "
        raise InputError(message + "filtered_feature_bc_matrix.h5 and its spatial/ folder")
    absent = [name for name, there in (("a feature_bc_matrix", _matrices(folder)),
                                       ("spatial/", (folder / "spatial").is_dir())) if not there]  # fmt: skip
    if absent:
        message = f"{folder} lacks {' and '.join(absent)}: copy the whole `outs` folder of Space Ranger"
        raise InputError(message)


def _matrices(folder: Path) -> list[Path]:
    """Where the counts may lie, best first."""
    names = [f"*{kind}_feature_bc_matrix{end}" for kind in ("filtered", "raw") for end in (".h5", "")]
    return [path for name in names for path in sorted(folder.glob(name))]


def _matrix(folder: Path) -> AnnData:
    """Spots x genes as the vendor counted them."""
    path = _matrices(folder)[0]
    with warnings.catch_warnings(action="ignore"):  # that names of genes occur twice: said by us
        import scanpy as sc

        try:
            if path.is_file():
                check_hdf5(path)
            adata = sc.read_10x_mtx(path) if path.is_dir() else sc.read_10x_h5(path)
        except InputError:
            raise
        except Exception as error:
            message = f"{path} is truncated or not the vendor's count matrix ({told(error)}): copy it again"
            raise InputError(message) from error
        if "feature_types" in adata.var:
            adata = adata[:, (adata.var["feature_types"] == "Gene Expression").to_numpy()].copy()
    return adata


def _positions(spatial: Path) -> pd.DataFrame:
    """Positions by barcode. Up to 1.x a list without a header, from 2.0 on a table with one."""
    listed, headed = spatial / "tissue_positions_list.csv", spatial / "tissue_positions.csv"
    path = headed if headed.is_file() else listed
    if not path.is_file():
        message = f"{spatial} has neither tissue_positions.csv nor tissue_positions_list.csv: copy it again"
        raise InputError(message)
    try:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        table = pd.read_csv(path, header=0 if "barcode" in first else None)
        if "barcode" not in first:
            table.columns = COLUMNS
        table = table[COLUMNS].set_index("barcode")
        table = table.astype(float)
    except Exception as error:
        message = f"{path} is not a table of {', '.join(COLUMNS)} ({told(error)}): copy it again"
        raise InputError(message) from error
    if not table.index.is_unique:
        message = f"{path} names {int(table.index.duplicated().sum())} barcodes twice: copy it again"
        raise InputError(message)
    return table


def _scalefactors(spatial: Path) -> dict[str, float]:
    path = spatial / "scalefactors_json.json"
    try:
        scale = {k: float(v) for k, v in json.loads(path.read_text()).items()}
        _ = scale["spot_diameter_fullres"], scale["tissue_hires_scalef"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} is missing or lacks {told(error)}: copy it again"
        raise InputError(message) from error
    return scale


def _images(spatial: Path) -> dict[str, np.ndarray]:
    """The reduced images that are there: name -> (h, w, 3) uint8."""
    from PIL import Image

    out = {}
    for name in ("hires", "lowres"):
        path = spatial / f"tissue_{name}_image.png"
        if path.is_file():
            with Image.open(path) as image:
                check_picture(path, image)
                out[name] = np.asarray(image.convert("RGB"))
    return out
