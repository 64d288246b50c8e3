"""How much of each cell type: shares of expression by prototypes, and how well each gene is caught.

Used on *training* profiles alone, as the target of CPNN's weights. Non-negative least squares of their sum starts it,
updates of the negative-binomial likelihood refine it (multiplicative, Gouvert et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stpath_core.errors import InputError

WARM = 5  # rounds before the genes' sensitivity moves with the shares
CAUGHT = (1e-2, 1e2)  # limits of a gene's sensitivity


@dataclass(frozen=True)
class Shares:
    """shares (n, C) rows sum to 1: of molecules where the profiles sum to 1, of cells where they are counts of a cell.
    sensitivity (G,), geometric mean 1 over the genes that are seen.
    """

    shares: np.ndarray
    sensitivity: np.ndarray

    def of(self, counts: np.ndarray, profiles: np.ndarray) -> np.ndarray:
        """Shares (m, C) of other rows (m, G), whose genes are caught as in these."""
        return deconvolve(counts, profiles, sensitivity=self.sensitivity).shares


def deconvolve(
    counts: np.ndarray,
    profiles: np.ndarray,
    *,
    theta: float = np.inf,
    rounds: int = 150,
    sensitivity: np.ndarray | None = None,
) -> Shares:
    """Shares of each profile in each row: counts (n, G) raw, profiles (C, G) positive.

    theta : dispersion of the rows around their mean; inf is Poisson. sensitivity : (G,) as found on other data; None:
    estimated with the shares, which takes several rows that differ (one row is explained by it wholly: give it then).

    All rows start at the mean shares. Sensitivity and shares are updated in turn, because a sensitivity fitted to the
    sum of the rows alone keeps whatever mixture that sum was first given.
    """
    counts, profiles = np.asarray(counts, np.float32), np.asarray(profiles, np.float32)
    if counts.ndim != 2 or counts.shape[1] != profiles.shape[1]:
        message = f"counts are {counts.shape}, profiles {profiles.shape}; both need the same genes: shared_genes(...)"
        raise InputError(message)
    if not np.isfinite(counts).all() or (counts < 0).any() or not (profiles > 0).all():
        message = "counts must be finite and >= 0 and profiles > 0: pass raw counts and prototypes of fit_prototypes"
        raise InputError(message)
    total = counts.sum(0)
    if sensitivity is None:
        mixed, caught = gene_sensitivity(total, profiles)
    else:
        caught = np.asarray(sensitivity, np.float32)
        mixed = nnls_shares(total[None], profiles * caught)[0]
    seen = (profiles * caught).astype(np.float32)
    w = ((0.9 * mixed + 0.1 / len(mixed)) * (counts.sum(1) / (mixed @ seen).sum())[:, None]).astype(np.float32)
    for k in range(rounds):
        expected = np.maximum(w @ seen, 1e-9)
        w *= _pull(counts, expected, seen, theta)
        if sensitivity is None and k >= WARM:
            caught = np.clip(caught * (total + 1) / (w.sum(0) @ seen + 1), *CAUGHT)
            seen = (profiles * caught).astype(np.float32)
    return Shares(_to_one(w), caught)


def _pull(counts: np.ndarray, expected: np.ndarray, seen: np.ndarray, theta: float) -> np.ndarray:
    """Factor (n, C) of one multiplicative update; its fixed point has the highest likelihood."""
    up = (counts / expected) @ seen.T
    return up / seen.sum(1) if np.isinf(theta) else up / (((counts + theta) / (expected + theta)) @ seen.T)


def gene_sensitivity(total: np.ndarray, profiles: np.ndarray, *, rounds: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Mean shares (C,) and each gene's factor (G,) so that the profiles, mixed, make the total (G,) of many rows."""
    from scipy.optimize import nnls

    wanted = total / max(total.sum(), 1e-12)
    caught = np.ones(len(total))
    for _ in range(rounds):
        seen = profiles * caught
        weight = 1 / np.sqrt(seen.mean(0) / seen.mean(0).sum() + 1e-6)
        mixed, _ = nnls((seen * weight).T, wanted * weight)
        caught = np.clip(caught * (wanted + 1e-7) / (mixed @ seen + 1e-7), *CAUGHT)
        known = total > 0
        caught = np.clip(caught / np.exp(np.log(caught[known]).mean()), *CAUGHT)
    return _to_one(mixed[None])[0], caught


def nnls_shares(counts: np.ndarray, profiles: np.ndarray) -> np.ndarray:
    """Shares (n, C) by weighted non-negative least squares, on the C x C Gram matrix: fast, and a fair baseline."""
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    level = profiles.mean(0)
    weight = 1 / np.sqrt(level / level.sum() + 1e-6)
    a = profiles * weight
    rows = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12) * weight
    upper = cholesky(a @ a.T + 1e-9 * np.trace(a @ a.T) * np.eye(len(a)))
    turned = solve_triangular(upper, a @ rows.T, trans="T")  # (C, n): |U w - turned| is the same problem, with C rows
    return _to_one(np.array([nnls(upper, column)[0] for column in turned.T]))


def bootstrap_shares(
    counts: np.ndarray, profiles: np.ndarray, *, n: int = 20, seed: int = 0, **options: float
) -> np.ndarray:
    """(n, rows, C) shares from genes drawn with replacement: how far they hang on which genes were seen."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(profiles.shape[1], size=profiles.shape[1]) for _ in range(n))
    return np.stack([deconvolve(counts[:, g], profiles[:, g], **options).shares for g in draws])


def type_correlations(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Pearson per type over rows, (C,); a type that does not vary on either side scores 0."""
    from stpath_core.correlation import pearson

    return np.nan_to_num(pearson(true, pred))


def regrouped(shares: np.ndarray, types: list[str], parent: Callable[[str], str]) -> tuple[np.ndarray, list[str]]:
    """Shares (n, C) summed over the types of each parent: (n, K) and the parents' names."""
    parents = [parent(t) for t in types]
    names = sorted(set(parents))
    return np.stack([shares[:, [p == name for p in parents]].sum(1) for name in names], axis=1), names


def _to_one(w: np.ndarray) -> np.ndarray:
    total = w.sum(1, keepdims=True)
    return np.where(total > 0, w / np.maximum(total, 1e-30), 1 / w.shape[1])
