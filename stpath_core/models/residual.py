"""One step beyond CPNN on spots: what prototypes leave is given to a low-rank ridge, as far as inner folds say that it
helps. Slides are too few to choose among so many: see `stacking`.

The composition stays readable, since the weights are CPNN's. What no mixture of cell types explains and the image still
shows (crowding, niche, how much a spot holds at all) goes into a few axes of expression, their number chosen on inner
folds of the training patients, 0 allowed: then nothing is added.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stpath_core.models.expression_baselines import Linear, group_score, low_rank, one_thread, ridge_path

RANKS = (0, 1, 2, 4, 8, 16)
ALPHAS = tuple(np.geomspace(100, 1e5, 7))


Choice = tuple[float, int, float, Hashable]  # slope of z, rank, alpha, key of a finish
Tried = Mapping[Choice, Sequence[float]]  # -> correlation in each inner fold


def best(tried: Tried) -> Choice:
    """The choice of the highest mean over inner folds; of equal ones the smaller rank, the larger alpha. A constant
    (slope 0, rank 0) says nothing, and is not among them."""
    says = [c for c in tried if c[0] or c[1]] or list(tried)
    return max(says, key=lambda c: (round(_mean(tried[c]), 6), -c[1], c[2]))


def _mean(scores: Sequence[float]) -> float:
    return sum(score / len(scores) for score in scores)


@dataclass(frozen=True)
class Plus:
    """slope * z + x @ residual.coef. finish : the key of what is done to predictions. inner : correlation there, of
    CPNN alone and of the whole."""

    slope: float
    residual: Linear
    finish: Hashable
    inner: tuple[float, float]

    def __call__(self, z: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self.slope * z + self.residual(x)


def fit_residual(
    z: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    group: np.ndarray,
    inner: Sequence[np.ndarray],
    *,
    finishes: Mapping[Hashable, Callable[[np.ndarray, np.ndarray], np.ndarray]] | None = None,
    ranks: Sequence[int] = RANKS,
    alphas: Sequence[float] = ALPHAS,
) -> Plus:
    """z (n, g) what prototypes predict of rows they were not trained on, x (n, d), y (n, g) target, all centred in
    their group; inner : held-out rows (n,) bool of each inner fold. finishes : key -> f(predictions, held-out rows).

    The slope of z is a least-squares one, or 0.
    """
    finishes = finishes or {None: lambda v, rows: v}
    slope = max(0.0, float((z * y).sum() / max(float((z * z).sum()), 1e-12)))
    tried: dict[Choice, list[float]] = {}
    with one_thread():
        for test in inner:
            for s in dict.fromkeys((slope, 0.0)):
                left = y[~test] - s * z[~test]
                for alpha, full in zip(
                    sorted(alphas)[::-1], ridge_path(x[~test], left, sorted(alphas)[::-1]), strict=True
                ):
                    for rank, coef in zip(ranks, low_rank(x[~test], full, ranks), strict=True):
                        raw = s * z[test] + x[test] @ coef
                        for key, finish in finishes.items():
                            score = group_score(y[test], finish(raw, test), group[test])
                            tried.setdefault((s, rank, alpha, key), []).append(score)
    s, rank, alpha, key = best(tried)
    alone = max((_mean(v) for c, v in tried.items() if c[1] == 0 and c[0] > 0), default=0.0)
    whole = _mean(tried[s, rank, alpha, key])
    with one_thread():
        coef = low_rank(x, ridge_path(x, y - s * z, [alpha])[0], [rank])[0]
    fitted = Linear(coef.astype(np.float32), float(alpha), rank, whole)
    return Plus(s, fitted, key, (alone, whole))
