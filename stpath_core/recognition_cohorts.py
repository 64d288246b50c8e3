"""Cohorts of spots for Part 3, virtual or real, as one table: sections joined on the genes that all of them have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpath_core import keys, tissue
from stpath_core.errors import InputError
from stpath_core.io import open_st

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

EMPTY = "empty_spots"  # uns: how many spots had no count at all and were left out


def open_cohort(
    dataset: str, *, data_dir: str = "", patients: int = 8, across: int = 12, seed: int = 0, workers: int = 2
) -> AnnData:
    """The spots of a cohort: `virtual` grows one (patients sections of across x across spots), her2st reads a folder.

    Spots without a single count are left out, uns["empty_spots"] says how many.
    """
    if dataset == "virtual":
        return without_empty(tissue.spot_cohort(patients, rows=across, columns=across, seed=seed, workers=workers))
    if not data_dir:
        message = (
            f"dataset={dataset} is read from a folder: pass data_dir=FOLDER, the one that holds counts/ and spots/"
        )
        raise InputError(message)
    return without_empty(joined(open_st(data_dir)))


def joined(sections: dict[str, AnnData]) -> AnnData:
    """Sections as one table, on the genes that all have."""
    import anndata

    whole = anndata.concat(sections.values(), join="inner")
    for name in (keys.PATIENT, keys.SECTION, keys.LABEL):
        whole.obs[name] = words(whole.obs, name)
        whole.obs[name] = whole.obs[name].astype("category")
    if not whole.n_vars:
        message = f"the {len(sections)} sections have no gene in common: are all named alike (symbols or Ensembl ids)?"
        raise InputError(message)
    return whole


def without_empty(adata: AnnData) -> AnnData:
    """The spots that hold a count, with the number of the others in uns["empty_spots"]."""
    full = np.asarray(adata.layers[keys.COUNTS].sum(1)).ravel() > 0
    kept = adata if full.all() else adata[full].copy()
    kept.uns[EMPTY] = int((~full).sum())
    return kept


def words(obs: DataFrame, name: str) -> np.ndarray:
    """(n,) words of a column of obs: patient, section or label. A missing label becomes "unlabelled".

    Raises InputError where a patient or a section is missing: all such spots would be of one that is named "nan".
    """
    lacking = obs[name].isna().to_numpy()
    if lacking.any() and name != keys.LABEL:
        message = f"obs[{name!r}] is missing (nan) in {int(lacking.sum())} of {len(lacking)} rows (row "
        message += f"{np.flatnonzero(lacking)[0]} first); every spot needs its {name}: fill it in, or leave these "
        raise InputError(message + "spots out")
    return np.where(lacking, keys.UNLABELLED, obs[name].astype(str).to_numpy(str))
