"""One step beyond CPNN on slides: two predictions added in the shares that slides neither has seen ask for.

CPNN is right early and stops learning; a low-rank ridge starts behind it and goes on. Which of them to trust hangs on
how many slides there are, and choosing one, or a rank, by a handful of inner slides is luck. Two numbers that all genes
and all slides share can be told even by few (stacking, Wolpert 1992; not negative, Breiman 1996).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stpath_core.models.expression_baselines import group_score

LEAST_SD = 1e-3  # of a gene, so that one that hardly varies has a unit


@dataclass(frozen=True)
class Stacked:
    """shares : of the two predictions, each at least 0. inner : correlation on unseen rows, of the first, of the second
    and of the whole."""

    shares: tuple[float, float]
    inner: tuple[float, float, float]

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self.shares[0] * first + self.shares[1] * second


def fit_stack(first: np.ndarray, second: np.ndarray, y: np.ndarray, inner: Sequence[np.ndarray]) -> Stacked:
    """first, second (n, g) what each predicts of rows it was not trained on, y (n, g) the target, all three centred in
    their inner fold or all together; inner : held-out rows (n,) bool of each inner fold.

    Non-negative least squares over all entries, a gene in units of its SD. Where neither deserves a share the first is
    taken as it stands: a constant would say nothing.
    """
    from scipy.optimize import nnls

    unit = y.std(0) + LEAST_SD
    both = np.stack([(first / unit).ravel(), (second / unit).ravel()], axis=1).astype(np.float64)
    wanted = (y / unit).ravel()
    upper = both.T @ both + 1e-9 * np.eye(2)  # two unknowns: their Gram matrix is all that least squares asks
    root = np.linalg.cholesky(upper)
    shares = nnls(root.T, np.linalg.solve(root, both.T @ wanted))[0]
    if not shares.any():
        shares = np.array([1.0, 0.0])
    whole = shares[0] * first + shares[1] * second
    scored = [
        float(np.mean([group_score(y[rows], said[rows], np.zeros(rows.sum(), int)) for rows in inner]))
        for said in (first, second, whole)
    ]
    return Stacked((float(shares[0]), float(shares[1])), tuple(scored))
