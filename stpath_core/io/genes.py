"""What the names of genes are: symbols or Ensembl ids, of which species, or no names at all."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stpath_core.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "gene_name", "gene_names", "feature_name", "symbol", "SYMBOL", "name")
_ENSEMBL = re.compile(r"ENS([A-Z]{0,4})G\d{11}(\.\d+)?$")
_NO_NAME = re.compile(r"(gene|feature|var|g|v)?[ _-]?\d+$", re.IGNORECASE)
_TITLE = re.compile(r"[A-Z][a-z][a-z0-9-]*\d*[a-z]?\d*$")  # Cd3e, as mouse genes are written
_UPPER = re.compile(r"[A-Z][A-Z0-9.-]*(orf\d+)?$")  # CD3E


@dataclass(frozen=True)
class GeneNames:
    """kind : symbols, ensembl or unnamed. species : human, mouse or unknown. duplicates : names that occur again."""

    kind: Literal["symbols", "ensembl", "unnamed"]
    species: Literal["human", "mouse", "unknown"]
    duplicates: int


def gene_names(names: Sequence[str]) -> GeneNames:
    """Say what the names of genes are, by what more than half of them look like.

    Examples
    --------
    >>> gene_names(["CD3E", "EPCAM", "COL1A1"]).species
    'human'
    >>> gene_names(["0", "1", "2"]).kind
    'unnamed'
    """
    names = [str(n) for n in names]
    duplicates = len(names) - len(set(names))
    step = max(1, len(names) // 2000)  # two thousand names tell
    some = names[::step]
    n = max(len(some), 1)
    ensembl = [m for m in map(_ENSEMBL.match, some) if m]
    if len(ensembl) > n / 2:
        kinds = [m[1] for m in ensembl]
        species = {"": "human", "MUS": "mouse"}.get(max(set(kinds), key=kinds.count), "unknown")
        return GeneNames("ensembl", species, duplicates)
    if sum(bool(_NO_NAME.match(s)) for s in some) > n / 2 or not some:
        return GeneNames("unnamed", "unknown", duplicates)
    upper, title = (sum(bool(p.match(s)) for s in some) for p in (_UPPER, _TITLE))
    species = "human" if upper > n / 2 else "mouse" if title > n / 2 else "unknown"
    return GeneNames("symbols", species, duplicates)


@cache
def known_symbols() -> frozenset[str]:
    """Human symbols that stpath knows: its marker table and its gene universe."""
    from stpath_core.celltyping import read_markers
    from stpath_core.tissue.genes import PROGRAMMES

    words = " ".join(PROGRAMMES.values()).split()
    return frozenset(words) | frozenset(read_markers()["gene"])


def looks_like_genes(names: Sequence[str]) -> float:
    """The share of names that are Ensembl ids, or the share of well-known symbols that are among them: 0 to 1."""
    names = [str(n) for n in names]
    ids = np.mean([bool(_ENSEMBL.match(n)) for n in names]) if names else 0.0
    upper = {n.upper() for n in names}
    known = len(upper & known_symbols()) / max(1, min(len(upper), len(known_symbols())))
    return float(max(ids, known))


def with_symbols(adata: AnnData, *, column: str | None = None, where: str = "the table") -> AnnData:
    """The same table with gene symbols as var_names; those that the names were stay in var["gene_id"].

    column : of var, that holds the symbols; None: var_names, or one of the usual columns where they are no symbols.
    """
    if column is not None and column not in adata.var:
        message = f"{where} has no var[{column!r}]; its columns are {list(adata.var) or 'none'}"
        raise InputError(message)
    if column is None:
        if gene_names(adata.var_names).kind == "symbols":
            return adata
        able = [c for c in SYMBOL_COLUMNS if c in adata.var and gene_names(adata.var[c].astype(str)).kind == "symbols"]
        if not able:
            kind = gene_names(adata.var_names).kind
            example = ", ".join(map(str, adata.var_names[:3]))
            what = "numbers its genes and does not name them" if kind == "unnamed" else "names its genes by Ensembl id"
            message = f"{where} {what} ({example}, ...) and has no column of symbols: add them as var['gene_symbol']"
            raise InputError(message)
        column = able[0]
    with names_may_repeat():  # said by `unique_genes`
        out = adata.copy()
    out.var["gene_id"] = adata.var_names.to_numpy()
    symbols = adata.var[column].astype(str)
    missing = adata.var[column].isna() | symbols.isin(["", "nan"])
    out.var_names = pd.Index(np.where(missing, out.var["gene_id"], symbols))
    return out


@contextmanager
def names_may_repeat() -> Iterator[None]:
    """A block in which anndata keeps silent about names that occur twice, and about nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(Observation|Variable) names are not unique", UserWarning)
        yield


def unique_genes(
    adata: AnnData, *, duplicates: Literal["refuse", "sum", "number"], where: str = "the table"
) -> AnnData:
    """A table in which every gene has its own name.

    duplicates : "refuse" raises; "sum" adds the counts of one name (X alone is kept); "number" appends -1, -2, ...
    """
    names = adata.var_names
    again = names[names.duplicated()]
    if duplicates not in ("refuse", "sum", "number"):
        message = f"duplicates={duplicates!r}; expected 'refuse', 'sum' or 'number'"
        raise InputError(message)
    if not len(again):
        return adata
    if duplicates == "refuse":
        message = f"{where} names {len(again)} genes more than once, first {again[0]!r}: pass duplicates='sum' to add"
        raise InputError(message + " their counts, or duplicates='number' to keep them apart as -1, -2, ...")
    if duplicates == "number":
        with names_may_repeat():  # they are being mended
            out = adata.copy()
        out.var_names_make_unique()
        return out
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    codes, unique = pd.factorize(names)
    merge = csr_matrix((np.ones(len(codes), np.int8), (np.arange(len(codes)), codes)), shape=(len(codes), len(unique)))
    first = np.flatnonzero(~names.duplicated())
    summed = csr_matrix(adata.X) @ merge.astype(adata.X.dtype)
    return AnnData(summed, obs=adata.obs.copy(), var=adata.var.iloc[first].set_axis(unique), obsm=dict(adata.obsm),
                   uns=dict(adata.uns))  # fmt: skip
