"""Bulk RNA tables, genes x samples or samples x genes, as raw counts."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.counts import no_counts, note, whole_numbers
from stpath_core.io.genes import SYMBOL_COLUMNS, looks_like_genes, unique_genes, with_symbols
from stpath_core.io.guard import read_text, reads, told

if TYPE_CHECKING:
    from anndata import AnnData

_SUMMARY = re.compile(r"^(__|N_)")  # rows that HTSeq and STAR add below or above the genes


@reads
def read_bulk(
    path: str | Path,
    *,
    genes_in: Literal["rows", "columns"] | None = None,
    patient: str | None = None,
    duplicates: Literal["refuse", "sum", "number"] = "refuse",
) -> AnnData:
    """Read a TSV or CSV (also .gz) of raw counts into AnnData, samples x genes, counts in X and layers["counts"].

    genes_in : where the genes are; None: told from their names, and said. patient : regular expression whose first
    group is the patient in a sample's name; None: every sample is a patient of its own. Gene symbols become
    var_names where a column has them; Ensembl ids stay otherwise. duplicates : see `unique_genes`.
    """
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    path = Path(path)
    table = _read(path)
    said = []
    if genes_in is None:
        share = {"rows": looks_like_genes(table.index), "columns": looks_like_genes(table.columns)}
        genes_in = max(share, key=share.get)
        if share[genes_in] < 0.02:
            example = ", ".join([*map(str, table.index[:2]), *map(str, table.columns[:2])])
            message = f"{path.name}: neither its rows nor its columns look like genes ({example}, ...): pass genes_in="
            raise InputError(message + "'rows' or 'columns'; genes are symbols or Ensembl ids")
        said.append(f"{path.name}: genes are its {genes_in} ({len(table.index)} rows, {len(table.columns)} columns)")
    var = pd.DataFrame()
    if genes_in == "rows":
        table = table[~table.index.astype(str).str.match(_SUMMARY)]
        words = [c for c in table if not pd.api.types.is_numeric_dtype(table[c])]
        var = table[words].astype(str)
        table = table.drop(columns=words).T
    unread = [str(c) for c in table if not pd.api.types.is_numeric_dtype(table[c])]
    if unread or not table.size:
        message = f"{path.name}: {', '.join(unread[:3]) or 'nothing in it'} cannot be read as numbers; expected counts"
        raise InputError(message + " with one row or column of names")
    values = table.to_numpy()
    if not np.isfinite(values).all():
        message = f"{path.name} has {int((~np.isfinite(values)).sum())} empty or infinite entries; counts have none"
        raise InputError(message)
    if not whole_numbers(values):
        raise InputError(no_counts(values, where=path.name))
    again = table.index[table.index.duplicated()]
    if len(again):
        message = f"{path.name} names {len(again)} samples twice, first {again[0]!r}: every sample needs its own name"
        raise InputError(message)
    obs = pd.DataFrame(index=table.index.astype(str))
    obs[keys.PATIENT] = [_patient(name, patient, path.name) for name in obs.index]
    var = var.set_axis(table.columns.astype(str)) if len(var) else pd.DataFrame(index=table.columns.astype(str))
    adata = AnnData(csr_matrix(values.astype(np.int32)), obs=obs, var=var)
    if any(column in var for column in SYMBOL_COLUMNS):
        adata = with_symbols(adata, where=path.name)
    adata = unique_genes(adata, duplicates=duplicates, where=path.name)
    adata.layers[keys.COUNTS] = adata.X.copy()
    for line in said:
        note(adata, line)
    return adata


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        message = f"{path} does not exist; give a table of counts (.tsv, .csv, .txt, also .gz)"
        raise InputError(message)
    try:
        text = read_text(path)
        first = next(line for line in text.splitlines() if line.strip())
        separator = max(("\t", ",", ";"), key=first.count)
        return pd.read_csv(StringIO(text), sep=separator, index_col=0, comment="#")
    except Exception as error:
        message = f"{path} cannot be read as a table ({told(error)}): is it complete, and text?"
        raise InputError(message) from error


def _patient(sample: str, pattern: str | None, name: str) -> str:
    if pattern is None:
        return sample
    found = re.search(pattern, sample)
    if not found or not found.groups():
        message = f"{name}: patient={pattern!r} finds no group in the sample {sample!r}; give a pattern that fits all"
        raise InputError(message)
    return found[1]
