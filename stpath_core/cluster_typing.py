"""The image-oriented typing of the paper (arXiv 2604.23481), cluster by cluster: the baseline that ours has to beat.

Within a slide, so that batch effects do not matter: fine Leiden clusters, their top genes, a vote over marker lists,
and unknown where the vote is low. The defaults are the paper's; the marker lists are ours unless others are given.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.celltyping import LINEAGES, lineage, raw_counts, usable_markers
from stpath_core.tissue.cell_types import SUPER_CLASSES

if TYPE_CHECKING:
    from anndata import AnnData

_CANCER_GENES = 20  # of a cluster's top genes, looked up in the list of cancer genes


def type_by_clusters(
    adata: AnnData,
    *,
    markers: pd.DataFrame | None = None,
    resolution: float = 4.0,
    top_genes: int = 10,
    min_vote: float = 5.0,
    cancer_share: float = 0.25,
    min_counts: int = 1,
    seed: int = 0,
) -> AnnData:
    """Give each nucleus the super-class that its expression cluster votes for, section by section.

    1. Counts to 1e4 per cell, log1p, PCA (50), kNN (15), Leiden at `resolution`: too fine on purpose, so that clusters
       are pure.
    2. Wilcoxon rank sums of each cluster against the rest. The gene at rank r = 0, 1, ... of the `top_genes` adds
       top_genes - r to every lineage (epithelial, inflammatory, connective) whose list holds it. A best vote under
       `min_vote` leaves the cluster unknown.
    3. An epithelial cluster of whose top 20 genes more than `cancer_share` are cancer genes is neoplastic: here the
       genes of the marker table's neoplastic sets.

    Returns a copy with obs label, confidence (the best lineage's share of all votes), evidence (the genes that voted
    for it), purity (share of the nucleus' 15 neighbours in the same class) and cluster.
    """
    out = adata.copy()
    markers = usable_markers(markers, adata)
    counts = raw_counts(adata)
    n = len(out)
    columns = {keys.LABEL: np.full(n, keys.UNKNOWN, object), keys.EVIDENCE: np.full(n, "", object)}
    columns |= {keys.CONFIDENCE: np.zeros(n, np.float32), keys.PURITY: np.zeros(n, np.float32)}
    columns[keys.CLUSTER] = np.full(n, "", object)
    section = adata.obs[keys.SECTION].astype(str).to_numpy() if keys.SECTION in adata.obs else np.full(n, "one")
    depth = np.asarray(counts.sum(1)).ravel()
    for name in pd.unique(section):
        rows = np.flatnonzero((section == name) & (depth >= max(min_counts, 1)))
        if len(rows) <= 15:
            continue
        cluster, ranked, near = _clusters(counts[rows], adata.var_names, resolution=resolution, seed=seed)
        votes = {
            c: _vote(genes, markers, top_genes=top_genes, min_vote=min_vote, cancer_share=cancer_share)
            for c, genes in ranked.items()
        }
        label = np.array([votes[c][0] for c in cluster], object)
        columns[keys.LABEL][rows] = label
        columns[keys.CONFIDENCE][rows] = [votes[c][1] for c in cluster]
        columns[keys.EVIDENCE][rows] = [votes[c][2] for c in cluster]
        columns[keys.PURITY][rows] = (label[near] == label[:, None]).mean(1)
        columns[keys.CLUSTER][rows] = [f"{name}:{c}" for c in cluster]
    out.obs[keys.LABEL] = pd.Categorical(columns.pop(keys.LABEL), categories=[*SUPER_CLASSES, keys.UNKNOWN])
    for key, values in columns.items():
        out.obs[key] = values
    return out


def _clusters(counts, genes, *, resolution: float, seed: int) -> tuple[np.ndarray, dict[str, list[str]], np.ndarray]:
    """Cluster of each cell, the genes of each cluster by rank, and each cell's 15 neighbours (n, 15)."""
    import anndata
    import scanpy as sc

    cells = anndata.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    cells = cells[:, np.asarray(counts.sum(0)).ravel() > 0].copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=min(50, *(k - 1 for k in cells.shape)), random_state=seed)
    sc.pp.neighbors(cells, n_neighbors=15, random_state=seed)
    sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    sizes = cells.obs["leiden"].value_counts()
    several = sizes.index[sizes > 1].tolist()  # a rank sum needs two
    ranked: dict[str, list[str]] = {c: [] for c in sizes.index}
    if len(sizes) > 1 and several:
        with warnings.catch_warnings():  # scanpy grows its table by a column per cluster, and pandas minds
            warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
            sc.tl.rank_genes_groups(cells, "leiden", groups=several, method="wilcoxon", n_genes=_CANCER_GENES)
        names = cells.uns["rank_genes_groups"]["names"]
        ranked |= {c: list(names[c]) for c in several}
    graph = cells.obsp["distances"]
    near = np.stack([np.resize(graph.indices[a:b], 15) if b > a else np.full(15, i) for i, (a, b) in
                     enumerate(zip(graph.indptr[:-1], graph.indptr[1:], strict=True))])  # fmt: skip
    return cells.obs["leiden"].astype(str).to_numpy(), ranked, near


def _vote(
    genes: list[str], markers: pd.DataFrame, *, top_genes: int, min_vote: float, cancer_share: float
) -> tuple[str, float, str]:
    """Class, its share of all votes, and the genes that voted for it, of one cluster's genes in order of rank."""
    normal = markers[markers["super_class"] != "neoplastic"]
    lists = {name: set(normal["gene"][normal["super_class"].map(lineage) == name]) for name in LINEAGES}
    cancer = set(markers["gene"][markers["super_class"] == "neoplastic"])
    vote = {
        name: sum(top_genes - r for r, gene in enumerate(genes[:top_genes]) if gene in lists[name]) for name in LINEAGES
    }
    best = max(vote, key=vote.__getitem__)
    if vote[best] < min_vote:
        return keys.UNKNOWN, 0.0, ""
    evidence = ",".join(gene for gene in genes[:top_genes] if gene in lists[best])
    share = vote[best] / sum(vote.values())
    if best == "epithelial" and np.mean([gene in cancer for gene in genes[:_CANCER_GENES]]) > cancer_share:
        best = "neoplastic"
    return best, share, evidence
