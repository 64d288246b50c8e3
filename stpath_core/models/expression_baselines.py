"""What a model of expression must beat, on the same features, target, genes and folds.

All of them predict log1p CP10K relative to the mean of the section (or of all slides), because that is what is scored,
and choose what has to be chosen on inner folds of the training patients. `x` is always (n, d), `y` (n, g); groups are
those within which a correlation is taken: sections of spots, one group for slides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpath_core.correlation import pearson

if TYPE_CHECKING:
    from threadpoolctl import threadpool_limits

Predict = Callable[[np.ndarray], np.ndarray]  # (n, d) -> (n, g)
ALPHAS = tuple(np.geomspace(1, 1e5, 11))  # of ridge, on features of unit variance
RANKS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Linear:
    """y = x @ coef. alpha, rank : chosen on inner folds, rank None: full; inner : their mean correlation there."""

    coef: np.ndarray
    alpha: float
    rank: int | None
    inner: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.coef


def one_thread() -> threadpool_limits:
    """A block whose linear algebra keeps to one thread: on matrices of a few hundred rows, threads that wait for each
    other beside torch's own made a fold a hundred times slower."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def group_score(true: np.ndarray, pred: np.ndarray, group: np.ndarray) -> float:
    """Mean over groups of the mean over genes of the Pearson correlation; what does not vary scores 0."""
    names = np.unique(group)
    return float(np.mean([np.nan_to_num(pearson(true[group == s], pred[group == s])).mean() for s in names]))


def ridge_path(x: np.ndarray, y: np.ndarray, alphas: Sequence[float] = ALPHAS) -> list[np.ndarray]:
    """Coefficients (d, g) of ridge regression for each alpha, from one eigendecomposition of the Gram matrix."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    values, vectors = np.linalg.eigh(x.T @ x)
    turned = vectors.T @ (x.T @ y)
    return [vectors @ (turned / (values.clip(0) + alpha)[:, None]) for alpha in alphas]


def low_rank(x: np.ndarray, coef: np.ndarray, ranks: Sequence[int | None]) -> list[np.ndarray]:
    """Coefficients cut to each rank: fitted values projected on their main axes (reduced-rank ridge, Mukherjee and Zhu
    2011). None: as they are; 0: nothing is left."""
    axes = np.linalg.eigh(coef.T @ (x.T @ x) @ coef)[1][:, ::-1].T if any(ranks) else coef[:0]  # (g, g), main first
    return [coef if r is None else coef @ axes[:r].T @ axes[:r] for r in ranks]


def fit_ridge(
    x: np.ndarray,
    y: np.ndarray,
    group: np.ndarray,
    inner: Sequence[np.ndarray],
    *,
    alphas: Sequence[float] = ALPHAS,
    ranks: Sequence[int | None] = (None,),
    finish: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Linear:
    """Ridge (ranks None) or low-rank ridge, as MoSPR's last step is, alpha and rank by the correlation on inner folds.

    x, y : centred within groups. inner : held-out rows (n,) bool of each inner fold. finish(prediction, held-out
    rows) : what happens to predictions before they are scored, such as smoothing.
    """
    score = np.zeros((len(alphas), len(ranks)))
    with one_thread():
        for test in inner:
            for i, full in enumerate(ridge_path(x[~test], y[~test], alphas)):
                for j, coef in enumerate(low_rank(x[~test], full, ranks)):
                    pred = x[test] @ coef
                    pred = finish(pred, test) if finish else pred
                    score[i, j] += group_score(y[test], pred, group[test]) / len(inner)
        i, j = np.unravel_index(score.argmax(), score.shape)
        coef = low_rank(x, ridge_path(x, y, [alphas[i]])[0], [ranks[j]])[0]
    return Linear(coef.astype(np.float32), float(alphas[i]), ranks[j], float(score[i, j]))


def shuffled(target: np.ndarray, patient: np.ndarray, *, seed: int) -> np.ndarray:
    """The control: rows of the target permuted within each patient: a patient's level stays, the pairs are gone."""
    rng, out = np.random.default_rng(seed), np.array(target)
    for name in np.unique(patient):
        rows = np.flatnonzero(patient == name)
        out[rows] = target[rng.permutation(rows)]
    return out
