"""Fine cell types transferred from a dissociated reference: what one does when a reference of the tissue exists.

A multinomial logistic regression on the genes that both measured (as CellTypist, Dominguez Conde et al. 2022), trained
on reference cells thinned to the depth of the assay, with each gene scaled within its own data set, because platforms
differ gene by gene; then smoothed over the nuclei of most similar expression, as marker scores are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stpath_core import keys
from stpath_core.celltyping import MIN_COUNTS, NEIGHBOURS, expression_neighbours, log_at_median_depth, raw_counts
from stpath_core.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

_MIN_GENES, _MIN_CELLS = 50, 10


def transfer_types(
    adata: AnnData,
    reference: AnnData,
    *,
    min_counts: int = MIN_COUNTS,
    neighbours: int = NEIGHBOURS,
    margin: float = 0.2,
    seed: int = 0,
) -> AnnData:
    """Give each nucleus a fine type of the reference, or "unknown". Section by section; the input is kept.

    adata : (N, genes) raw counts, obs section if there are several. reference : raw counts, obs["cell_type"]; types of
    fewer than 10 cells are left out. margin : lead of the best type's probability over the next, under which a nucleus
    stays unknown.

    Returns a copy with obs transferred, transferred_confidence (the lead, 0 to 1); obsm["type_probability"], a frame
    (N, types).
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    counts, known = raw_counts(adata), raw_counts(reference)
    genes = adata.var_names.intersection(reference.var_names, sort=False)
    if len(genes) < _MIN_GENES:
        message = f"{len(genes)} genes are both in the assay and in the reference; at least {_MIN_GENES} are needed"
        raise InputError(message + ": both must name genes by symbol")
    if keys.CELL_TYPE not in reference.obs:
        message = f"the reference lacks obs[{keys.CELL_TYPE!r}]; read it with io.open_reference"
        raise InputError(message)
    counts = counts[:, adata.var_names.get_indexer(genes)]
    known = known[:, reference.var_names.get_indexer(genes)]
    kind = reference.obs[keys.CELL_TYPE].astype(str)
    kept = kind.map(kind.value_counts()).to_numpy() >= _MIN_CELLS
    if kind[kept].nunique() < 2:
        message = f"the reference has {kind[kept].nunique()} types of {_MIN_CELLS} cells or more; at least 2 are needed"
        raise InputError(message)
    depth = np.asarray(counts.sum(1)).ravel()
    typed = depth >= max(min_counts, 1)
    thin = _thinned(known[kept], float(np.median(depth[typed])) if typed.any() else 1.0, seed=seed)
    seen = np.asarray(thin.sum(1)).ravel() > 0
    model = LogisticRegression(C=0.1, max_iter=300)
    with threadpool_limits(1, "blas"):
        model.fit(_scaled(thin[seen])[0], kind[kept][seen])
        probability = np.zeros((len(adata), len(model.classes_)), np.float32)
        section = (
            adata.obs[keys.SECTION].astype(str).to_numpy() if keys.SECTION in adata.obs else np.full(len(adata), "")
        )
        for name in pd.unique(section):
            rows = np.flatnonzero((section == name) & typed)
            if len(rows) > neighbours:
                scaled, logged = _scaled(counts[rows])
                alone = model.predict_log_proba(scaled)
                near = expression_neighbours(logged, neighbours)
                together = np.exp(alone[near].mean(1))  # the geometric mean: one sure neighbour cannot outvote many
                probability[rows] = together / together.sum(1, keepdims=True)
    ranked = np.sort(probability, axis=1)
    lead = ranked[:, -1] - ranked[:, -2]
    out = adata.copy()
    names = np.where(lead >= margin, model.classes_[probability.argmax(1)].astype(object), keys.UNKNOWN)
    out.obs[keys.TRANSFERRED] = pd.Categorical(names, categories=[*model.classes_, keys.UNKNOWN])
    out.obs[keys.TRANSFERRED_CONFIDENCE] = lead
    out.obsm[keys.TYPE_PROBABILITY] = pd.DataFrame(probability, out.obs_names, model.classes_)
    return out


def _thinned(counts: csr_matrix, depth: float, *, seed: int) -> csr_matrix:
    """Counts thinned binomially, so that the median cell has `depth` of them; never made deeper."""
    share = min(1.0, depth / max(float(np.median(np.asarray(counts.sum(1)))), 1.0))
    thin = counts.copy().astype(np.int64)
    thin.data = np.random.default_rng(seed).binomial(thin.data, share)
    thin.eliminate_zeros()
    return thin


def _scaled(counts: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """log1p of counts at the median depth, centred and scaled gene by gene, at most 5 either way; and unscaled."""
    logged = log_at_median_depth(counts)
    return np.clip((logged - logged.mean(0)) / np.maximum(logged.std(0), 0.05), -5, 5), logged
