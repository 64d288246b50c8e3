"""The packed file of spots (schema stpath.spots/1): features, counts of the panels, and the folds of notebook 21.

A fold's panel, prototypes and deconvolved shares need the single-cell stack; they are in the file, so that CPNN can be
trained where that stack is not installed. Targets are computed from the raw counts, as the notebook computes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.expression import target_of
from stpath_core.expression_folds import Fold
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import check_hdf5, reads
from stpath_core.spot_methods import SpotFold, described, make_fold

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SCHEMA = "stpath.spots/1"
SMALL = {"compression": "gzip", "shuffle": True}


@dataclass(frozen=True)
class SpotStage:
    """dataset : whose spots. genes (G,) of all panels; a fold's `columns` point into them. folds : as `make_fold`."""

    dataset: str
    genes: np.ndarray
    folds: list[SpotFold]


def write_spot_stage(
    path: str | Path, cohort: AnnData, profiles: pd.DataFrame, splits: Sequence[np.ndarray], *, dataset: str,
    n_genes: int,
) -> None:  # fmt: skip
    """Pack the spots of `spot_cohorts` with their folds. splits : (n,) bool each, the spots that are held out."""
    folds = [make_fold(cohort, profiles, test, n_genes=n_genes) for test in splits]
    columns = np.unique(np.concatenate([fold.columns for fold in folds]))
    counts = cohort.layers[keys.COUNTS].tocsr()
    words = h5py.string_dtype()
    with atomic_path(path) as aside, h5py.File(aside, "w") as file:
        file.attrs.update(schema=SCHEMA, dataset=dataset)
        file.create_dataset("genes", data=cohort.var_names[columns].to_numpy(str).astype(object), dtype=words)
        file.create_dataset("counts", data=counts[:, columns].toarray().astype(np.int32), **SMALL)
        file["total"] = np.asarray(counts.sum(1), np.float64).ravel()
        for name in ("features", "density"):
            file.create_dataset(name, data=np.asarray(cohort.obsm[name], np.float32), **SMALL)
        file["xy_um"] = np.asarray(cohort.obsm[keys.SPATIAL], float)
        for name in (keys.PATIENT, keys.SECTION):
            file.create_dataset(name, data=cohort.obs[name].astype(str).to_numpy().astype(object), dtype=words)
        for k, (fold, test) in enumerate(zip(folds, splits, strict=True)):
            group = file.create_group(f"folds/{k}")
            group.attrs.update(types=json.dumps(fold.types), absent=json.dumps(list(fold.absent)))
            group["test"], group["columns"] = np.asarray(test, bool), np.searchsorted(columns, fold.columns)
            group["profiles"], group["shares"] = fold.profiles, fold.train.shares


@reads
def read_spot_stage(path: str | Path) -> SpotStage:
    """What `write_spot_stage` packed; InputError where the file is not one."""
    check_hdf5(Path(path))
    with h5py.File(path) as file:
        if file.attrs.get("schema") != SCHEMA:
            msg = (
                f"{path} has schema {file.attrs.get('schema')!r}; expected {SCHEMA!r}: make it with `stpath pack spots`"
            )
            raise InputError(msg)
        patient, section = (file[name].asstr()[...] for name in (keys.PATIENT, keys.SECTION))
        counts, total = file["counts"][...], file["total"][...]
        whole = described(file["features"][...], file["density"][...], file["xy_um"][...], patient, section)
        folds = [_read_fold(file[f"folds/{k}"], whole, counts, total) for k in range(len(file["folds"]))]
        return SpotStage(str(file.attrs["dataset"]), file["genes"].asstr()[...], folds)


def _read_fold(group: h5py.Group, whole: dict[str, np.ndarray], counts: np.ndarray, total: np.ndarray) -> SpotFold:
    from stpath_core.spots import SpotTable

    test, columns, shares = group["test"][...], group["columns"][...], group["shares"][...]
    patient = whole["patient"]
    if set(patient[test]) & set(patient[~test]):
        msg = f"fold {group.name} has patients on both sides ({sorted(set(patient[test]) & set(patient[~test]))[:5]})"
        raise InputError(msg + ": pack it again, split by patient")
    of_all = np.zeros((len(test), shares.shape[1]), np.float32)
    of_all[~test] = shares
    table = SpotTable(**whole, target=target_of(counts[:, columns], total), shares=of_all)
    types, absent = (json.loads(group.attrs[name]) for name in ("types", "absent"))
    return Fold(table.rows(~test), table.rows(test), columns, group["profiles"][...], types, absent)
