"""Open single cells from h5ad: a dissociated reference, or cells with positions. Raw counts, symbols, types, donors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.counts import note, with_counts
from stpath_core.io.frame import Frame, set_frame
from stpath_core.io.genes import unique_genes, with_symbols
from stpath_core.io.guard import check_hdf5, reads, told

if TYPE_CHECKING:
    from anndata import AnnData

TYPE_COLUMNS = ("cell_type", "celltype_major", "cell_type_major", "celltype", "CellType", "cell_type_minor",
                "celltype_minor", "annotation", "Annotation", "cell_ontology_class", "author_cell_type")  # fmt: skip
DONOR_COLUMNS = ("donor_id", "donor", "patient", "patient_id", "Patient", "individual", "subject", "orig.ident",
                 "sample_id", "sample", "Sample")  # fmt: skip
CELL_SPACING_UM = (3.0, 100.0)  # median distance of a cell to the nearest other; cells drawn at random lie far apart


@reads
def open_reference(
    path: str | Path,
    *,
    cell_type: str | None = None,
    donor: str | None = None,
    symbols: str | None = None,
    duplicates: Literal["refuse", "sum", "number"] = "refuse",
) -> AnnData:
    """Read a scRNA-seq reference: cells x genes, raw counts in X and layers["counts"], symbols as var_names.

    obs gets "cell_type" and "donor". cell_type, donor : the columns that hold them; None: guessed among the usual
    names, and said. Without any column of donors all cells are taken for one donor's, and that is said too.
    symbols : column of var with the gene symbols. duplicates : see `unique_genes`.

    Examples
    --------
    >>> ref = open_reference("wu2021.h5ad", cell_type="celltype_major", donor="orig.ident")   # doctest: +SKIP
    """
    path = Path(path)
    adata = _table(path, symbols=symbols, duplicates=duplicates)
    kinds = _column(adata, cell_type, TYPE_COLUMNS, keys.CELL_TYPE, path.name)
    if kinds is None:
        message = f"{path.name} has no column of cell types; obs has {', '.join(adata.obs) or 'no columns'}: pass "
        raise InputError(message + "cell_type=COLUMN")
    missing = int(kinds.isna().sum())
    if missing:
        message = f"{path.name}: {missing} of {len(kinds)} cells have no type in obs[{kinds.name!r}]: leave them out"
        raise InputError(message)
    donors = _column(adata, donor, DONOR_COLUMNS, keys.DONOR, path.name)
    if donors is None:
        note(adata, f"{path.name}: no column of donors; all cells are taken for one donor's (pass donor=COLUMN)")
        donors = pd.Series(path.stem, index=adata.obs_names)
    adata.obs[keys.CELL_TYPE] = pd.Categorical(kinds.astype(str))
    adata.obs[keys.DONOR] = pd.Categorical(donors.astype(str))
    return adata


@reads
def open_named_cells(data_dir: str | Path, *, entry: str) -> AnnData:
    """Cells with raw counts that experts have named: the one h5ad of a folder, as an entry of the registry says.

    obs gets section, patient, organ, total_counts, and "super_class", the names of `types.column` by `types.map`.
    """
    from stpath_core.io.registry import dataset

    known = dataset(entry)
    files = sorted(p for p in Path(data_dir).glob("*.h5ad") if not p.name.startswith(".")) if data_dir else []
    if len(files) != 1:
        message = f"data_dir={str(data_dir)!r} holds {len(files)} .h5ad files; {entry} is one: give the folder it is in"
        raise InputError(message)
    cells = open_reference(files[0], cell_type=known.types["column"])
    strange = sorted(set(cells.obs[keys.CELL_TYPE]) - set(known.types["map"]))
    if strange:
        message = f"{files[0].name} names the types {strange}; {entry} knows {', '.join(known.types['map'])}"
        raise InputError(message)
    cells.obs[keys.SUPER_CLASS] = cells.obs[keys.CELL_TYPE].astype(str).map(known.types["map"])
    cells.obs[keys.SECTION] = cells.obs[keys.PATIENT] = entry
    cells.obs[keys.ORGAN] = known.organ
    cells.obs[keys.TOTAL_COUNTS] = np.asarray(cells.layers[keys.COUNTS].sum(1)).ravel()
    return cells


@reads
def open_cells(
    path: str | Path,
    *,
    unit: Literal["um", "px"],
    mpp: float | None = None,
    x: str | None = None,
    y: str | None = None,
    image: str | Path | None = None,
    patient: str | None = None,
    symbols: str | None = None,
    duplicates: Literal["refuse", "sum", "number"] = "refuse",
) -> AnnData:
    """Read a table of cells with positions and no outlines: raw counts in X and layers["counts"].

    unit, mpp : of the positions, and um per pixel where they are pixels. x, y : columns of obs that hold them; None:
    obsm["spatial"]. image : H&E on whose pixels positions in "px" lie; kept as uns["image"]. That x and y are not
    mixed up is no reader's knowledge: see `stpath_core.registration`.
    """
    path = Path(path)
    adata = _table(path, symbols=symbols, duplicates=duplicates)
    xy = positions(adata, x=x, y=y, where=path.name)
    if image is not None and not Path(image).is_file():
        message = f"{image} does not exist; give the H&E on which the positions lie, or leave image out"
        raise InputError(message)
    affine = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)) if image is not None and unit == "px" else None
    frame = Frame(unit=unit, mpp=mpp, mpp_from="given" if mpp else "", to_image=affine)
    spacing = nearest_um(frame.um(xy))
    if len(xy) > 20 and not CELL_SPACING_UM[0] <= spacing <= CELL_SPACING_UM[1]:
        message = (
            f"{path.name}: the median cell lies {spacing:.3g} um from the next, expected {CELL_SPACING_UM[0]:.0f} "
        )
        raise InputError(message + f"to {CELL_SPACING_UM[1]:.0f}: is unit={unit!r} right, and mpp?")
    adata.obsm[keys.SPATIAL] = xy
    set_frame(adata, frame)
    if image is not None:
        adata.uns["image"] = str(image)
    if keys.CELL_ID not in adata.obs:
        adata.obs[keys.CELL_ID] = adata.obs_names.astype(str)
    for key, value in ((keys.SECTION, path.stem), (keys.PATIENT, patient or path.stem)):
        if key not in adata.obs:
            adata.obs[key] = value
    return adata


def positions(adata: AnnData, *, x: str | None, y: str | None, where: str) -> np.ndarray:
    """(N, 2) x, y from two columns of obs, or from obsm["spatial"]."""
    if x is not None and y is not None:
        lacking = [c for c in (x, y) if c not in adata.obs]
        if lacking:
            message = f"{where}: obs lacks {lacking}; it has {', '.join(adata.obs) or 'no columns'}"
            raise InputError(message)
        xy = adata.obs[[x, y]].to_numpy(float)
    elif keys.SPATIAL in adata.obsm:
        xy = np.asarray(adata.obsm[keys.SPATIAL], float)[:, :2]
    else:
        message = f"{where} has no obsm['{keys.SPATIAL}'], and obs has {', '.join(adata.obs) or 'no columns'}: pass "
        raise InputError(message + "x=COLUMN and y=COLUMN")
    if not np.isfinite(xy).all():
        message = f"{where}: {int((~np.isfinite(xy)).any(1).sum())} cells have no position: leave them out first"
        raise InputError(message)
    return xy


def nearest_um(xy_um: np.ndarray) -> float:
    """Median distance to the nearest other point; nan below two points."""
    from scipy.spatial import cKDTree

    if len(xy_um) < 2:
        return float("nan")
    return float(np.median(cKDTree(xy_um).query(xy_um, k=2)[0][:, 1]))


def read_h5ad(path: str | Path) -> AnnData:
    """An h5ad file as it is, or one clear error."""
    import anndata

    path = Path(path)
    if not path.is_file():
        message = f"{path} does not exist; give the path of an h5ad file"
        raise InputError(message)
    try:
        check_hdf5(path)
        with warnings.catch_warnings(action="ignore"):  # of names that occur twice, and of old layouts: said by us
            return anndata.read_h5ad(path)
    except InputError:
        raise
    except Exception as error:
        message = f"{path} is truncated or no h5ad file ({type(error).__name__}: {told(error)}): copy it again"
        raise InputError(message) from error


def _table(path: Path, *, symbols: str | None, duplicates: str) -> AnnData:
    adata = with_counts(read_h5ad(path), where=path.name)
    if not adata.n_obs or not adata.n_vars:
        message = f"{path.name} is {adata.n_obs} x {adata.n_vars}: there is nothing in it"
        raise InputError(message)
    again = adata.obs_names[adata.obs_names.duplicated()]
    if len(again):
        message = f"{path.name} has {len(again)} cells of a name that occurs before, first {again[0]!r}: every cell "
        raise InputError(message + "needs its own (adata.obs_names_make_unique(), or drop the copies)")
    adata = with_symbols(adata, column=symbols, where=path.name)
    adata = unique_genes(adata, duplicates=duplicates, where=path.name)
    if keys.COUNTS not in adata.layers:
        adata.layers[keys.COUNTS] = adata.X.copy()
    return adata


def _column(adata: AnnData, given: str | None, usual: tuple[str, ...], what: str, name: str) -> pd.Series | None:
    """A column of obs, named or guessed; a guess is said."""
    if given is not None:
        if given not in adata.obs:
            message = f"{name}: obs has no column {given!r}; it has {', '.join(adata.obs) or 'no columns'}"
            raise InputError(message)
        return adata.obs[given]
    able = [c for c in usual if c in adata.obs and adata.obs[c].nunique() < max(2, adata.n_obs / 2)]
    if not able:
        return None
    if able[0] != what:
        note(adata, f"{name}: {what.replace('_', ' ')} is taken from obs[{able[0]!r}] (pass {what}=COLUMN for another)")
    return adata.obs[able[0]]
