"""How well patients mix in an embedding, and whether the biology is still there: always asked of the same embedding.

Mixing alone is no merit: noise mixes perfectly. `mixing` and `mixing_within` are those of the calibration card; the
others follow scIB (Luecken et al. 2022, Nature Methods 19:41), LISI after Korsunsky et al. 2019 (Nature Methods
16:1289). All are scaled so that 1 is good: of patients mixed (iLISI), of classes kept apart (cLISI, connectivity).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from stpath_core.errors import InputError
from stpath_core.tissue.assay_card import mixing, mixing_within

__all__ = ["clisi", "graph_connectivity", "ilisi", "lisi", "mixing", "mixing_within"]

NEIGHBOURS = 90  # of LISI; the perplexity is a third of it
CONNECTED = 15  # neighbours of the graph


def lisi(embedding: np.ndarray, group: np.ndarray, *, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Effective number of groups around each spot, (n,) from 1 to the number of groups: 1 / sum of squared shares.

    Shares are weighed by a Gaussian of the distance, whose width gives each spot the perplexity neighbours / 3.
    """
    k = min(neighbours, len(embedding) - 1)
    if k < 3:
        message = f"{len(embedding)} spots; LISI looks at neighbours and needs at least 4"
        raise InputError(message)
    away, near = _nearest(embedding, k)
    weight = _gaussian(away**2, perplexity=k / 3)  # (n, k)
    words, code = np.unique(group, return_inverse=True)
    shares = np.stack([(weight * (code[near] == c)).sum(1) for c in range(len(words))], 1)
    return 1 / (shares**2).sum(1)


def _nearest(embedding: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, k) and rows (n, k) of the k nearest others, nearest first. Trees do not help in 30 dimensions."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(embedding).kneighbors()


def _gaussian(squared: np.ndarray, *, perplexity: float, steps: int = 60) -> np.ndarray:
    """Weights exp(-beta d^2), rows summing to 1, with beta per row found by bisection so that exp(entropy) fits."""
    squared = squared - squared[:, :1]  # the nearest has weight 1 before scaling: nothing underflows
    scale = np.maximum(squared.mean(1, keepdims=True), 1e-30)
    low, high = np.full((len(squared), 1), -30.0), np.full((len(squared), 1), 30.0)  # of log beta
    for _ in range(steps):
        middle = (low + high) / 2
        weight = np.exp(-np.exp(middle) * squared / scale)
        weight /= weight.sum(1, keepdims=True)
        entropy = -(weight * np.log(np.maximum(weight, 1e-300))).sum(1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return weight


def ilisi(embedding: np.ndarray, patient: np.ndarray) -> float:
    """0: every spot is among its own patient; 1: all patients are equally near. Median over spots."""
    n = len(np.unique(patient))
    if n < 2:
        message = f"all {len(patient)} spots come from one patient; mixing needs two: give the other patients as well"
        raise InputError(message)
    return float((np.median(lisi(embedding, patient)) - 1) / (n - 1))


def clisi(embedding: np.ndarray, label: np.ndarray) -> float:
    """1: every spot is among its own class; 0: all classes are equally near. Median over spots."""
    n = len(np.unique(label))
    if n < 2:
        message = f"all {len(label)} spots are of one class; give labels of two or more"
        raise InputError(message)
    return float((n - np.median(lisi(embedding, label))) / (n - 1))


def graph_connectivity(embedding: np.ndarray, label: np.ndarray, *, neighbours: int = CONNECTED) -> float:
    """Share of each class that hangs together in the graph of nearest neighbours, mean over classes."""
    k = min(neighbours, len(embedding) - 1)
    near = _nearest(embedding, k)[1]
    n = len(embedding)
    graph = csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), near.ravel())), shape=(n, n))
    shares = []
    for name in np.unique(label):
        own = np.flatnonzero(label == name)
        parts = connected_components(graph[own][:, own], directed=False)[1]
        shares.append(np.bincount(parts).max() / len(own))
    return float(np.mean(shares))
