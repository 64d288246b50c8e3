"""Raw counts: find them in a table, see that they are whole numbers, put them where every method looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, issparse

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.genes import names_may_repeat

if TYPE_CHECKING:
    from anndata import AnnData

RAW_LAYERS = (keys.COUNTS, "raw_counts", "raw", "count")


def whole_numbers(matrix) -> bool:
    """Whether a matrix, dense or sparse, holds whole numbers >= 0 and nothing else."""
    data = matrix.data if issparse(matrix) else np.asarray(matrix)
    if data.dtype.kind in "ub":
        return True
    return bool(data.size == 0 or (np.isfinite(data).all() and data.min() >= 0 and not np.any(data % 1)))


def find_counts(adata: AnnData) -> tuple[str, csr_matrix] | None:
    """Where the raw counts lie ("layers['counts']", "raw.X" or "X") and the counts, (n, g) int32; None: nowhere."""
    slots = {f"layers[{name!r}]": adata.layers[name] for name in RAW_LAYERS if name in adata.layers}
    if adata.raw is not None:
        slots["raw.X"] = adata.raw.X
    if adata.X is not None:
        slots["X"] = adata.X
    for slot, matrix in slots.items():
        if issparse(matrix):
            _check_indices(matrix, slot)
        matrix = matrix[:] if not (issparse(matrix) or isinstance(matrix, np.ndarray)) else matrix  # backed
        if whole_numbers(matrix):
            return slot, csr_matrix(matrix).astype(np.int32)
    return None


def _check_indices(matrix, slot: str) -> None:
    """Compiled code does not look whether the indices of a sparse matrix lie inside it, and ends the process."""
    try:
        matrix.check_format(full_check=True)
    except (ValueError, AttributeError) as error:
        message = f"{slot} is damaged ({' '.join(str(error).split())[:200]}): copy the file again"
        raise InputError(message) from error


def with_counts(adata: AnnData, *, where: str = "the table") -> AnnData:
    """A table whose X and layers["counts"] are the raw counts, (n, g) int32 sparse, wherever they lay.

    Counts in `raw` bring their own genes; obs, obsm and uns stay.
    """
    from anndata import AnnData

    found = find_counts(adata)
    if found is None:
        raise InputError(no_counts(adata.X, where=where))
    slot, counts = found
    var = adata.raw.var if slot == "raw.X" else adata.var
    with names_may_repeat():  # said by the readers
        out = AnnData(counts, obs=adata.obs.copy(), var=var.copy(), obsm=dict(adata.obsm), uns=dict(adata.uns))
    out.layers[keys.COUNTS] = counts.copy()
    if slot != f"layers[{keys.COUNTS!r}]" and slot != "X":
        note(out, f"{where}: raw counts were found in {slot}")
    return out


def no_counts(matrix, *, where: str) -> str:
    """Say what a matrix is instead of raw counts."""
    data = matrix.data if issparse(matrix) else np.asarray(matrix)
    data = data[np.isfinite(data)] if data.size else np.zeros(1)
    sums = np.asarray(matrix.sum(1)).ravel()
    alike = sums[sums > 0]
    what = f"values like {data[data % 1 != 0][0]:.4g}" if np.any(data % 1) else f"values down to {data.min():.4g}"
    if len(alike) > 1 and alike.std() < 1e-3 * alike.mean():
        kind = "counts per million or TPM" if abs(alike.mean() / 1e6 - 1) < 0.01 else "scaled counts"
        what += f" and every row sums to {alike.mean():,.0f} ({kind})"
    elif data.min() >= 0 and data.max() < 20:
        what += f" and a maximum of {data.max():.3g} (a logarithm?)"
    return f"{where} holds {what}; raw counts are whole numbers >= 0: give them in layers['{keys.COUNTS}'] or in X"


def note(adata: AnnData, line: str) -> None:
    """Keep what a reader had to choose in uns["notes"], and say it."""
    adata.uns[keys.NOTES] = [*adata.uns.get(keys.NOTES, []), line]
    print(line)
