"""What is noise in measured expression: how far a perfect predictor could get, and whether a predicted spread is right.

Halves: every molecule goes to one of two halves by a coin. If the counts are Poisson around what is there, the halves
are independent measurements of it, and Spearman (1910) and Brown (1910) say how far the whole agrees with the truth.
What varies beyond Poisson is in both halves, so that the ceiling is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpath_core.correlation import average_ranks, pearson
from stpath_core.errors import InputError
from stpath_core.expression import target

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

LEVELS = (0.5, 0.8, 0.95)  # of central intervals


def halves(counts: csr_matrix, *, rng: np.random.Generator) -> tuple[csr_matrix, csr_matrix]:
    """Binomial thinning: counts (n, G) raw -> two tables of whole numbers that add up to it."""
    from scipy.sparse import csr_matrix

    counts = csr_matrix(counts)
    first = counts.copy()
    first.data = rng.binomial(counts.data.astype(np.int64), 0.5)
    return first, csr_matrix(counts - first)


def gene_halves(
    counts: csr_matrix, columns: Sequence[int], groups: Sequence[str], *, repeats: int = 3, seed: int = 0
) -> dict[str, np.ndarray]:
    """Correlation of the halves of each gene within each group: pcc and scc (n_groups, g), groups in order of first
    sight.

    counts : (n, G) raw, all genes; columns : of the panel. `repeats` coins are tossed and their correlations averaged;
    0 where a gene does not vary.
    """
    rng, groups = np.random.default_rng(seed), np.asarray(groups).astype(str)
    names = list(dict.fromkeys(groups))
    r = {m: np.zeros((len(names), len(columns))) for m in ("pcc", "scc")}
    for _ in range(repeats):
        a, b = (target(half, columns) for half in halves(counts, rng=rng))
        for k, name in enumerate(names):
            x, y = a[groups == name], b[groups == name]
            r["pcc"][k] += np.nan_to_num(pearson(x, y)) / repeats
            r["scc"][k] += np.nan_to_num(pearson(average_ranks(x), average_ranks(y))) / repeats
    return r


def perfect(agreement: np.ndarray) -> np.ndarray:
    """To what a perfect predictor would correlate with the whole, from the correlation r of its halves: with
    sqrt(2 r / (1 + r)); 0 where the halves do not agree."""
    agree = agreement.clip(0)
    return np.sqrt(2 * agree / (1 + agree))


def ceiling(counts: csr_matrix, columns: Sequence[int], groups: Sequence[str], **options: int) -> pd.DataFrame:
    """How well a perfect predictor would correlate with log1p CP10K, means over genes, a row per group: halves_pcc,
    pcc, scc. Arguments are those of `gene_halves`; groups are sections, or folds of slides."""
    import pandas as pd

    r = gene_halves(counts, columns, groups, **options)
    table = pd.DataFrame(
        {"halves_pcc": r["pcc"].mean(1)}, index=pd.Index(dict.fromkeys(map(str, groups)), name="group")
    )
    for measure, found in r.items():
        table[measure] = perfect(found).mean(1)
    return table


def nb_pit(counts: np.ndarray, mean: np.ndarray, theta: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Where each count lies in its predicted negative binomial, (n, G) in 0..1: uniform if the prediction is right.

    counts : (n, G) raw; mean : (n, G) > 0; theta : (G,) or (n, G), variance = mean + mean^2 / theta. Counts are
    discrete, so a count's place is drawn within its step (randomised probability integral transform, Czado et al.
    2009).
    """
    from scipy.stats import nbinom

    counts, mean = np.asarray(counts), np.asarray(mean, np.float64)
    if counts.shape != mean.shape or (mean <= 0).any():
        message = f"counts are {counts.shape}, means {mean.shape}; both (n, genes), and every mean above 0"
        raise InputError(message)
    theta = np.broadcast_to(np.asarray(theta, np.float64), mean.shape)
    chance = theta / (theta + mean)
    upper = nbinom.cdf(counts, theta, chance)
    lower = np.where(counts > 0, nbinom.cdf(counts - 1, theta, chance), 0)
    return lower + (upper - lower) * np.random.default_rng(seed).random(counts.shape)


def coverage(pit: np.ndarray, levels: Sequence[float] = LEVELS) -> pd.Series:
    """Share of the counts that lie in the predicted central intervals: equal to the levels where it is calibrated."""
    import pandas as pd

    inside = [float((np.abs(pit - 0.5) <= level / 2).mean()) for level in levels]
    return pd.Series(inside, index=pd.Index(levels, name="level"), name="covered")
