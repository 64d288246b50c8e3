"""Correlations of each gene: Pearson, Spearman with average ranks, and which genes vary at all. The hot path of every
score of expression, so it goes through memory once, in blocks that stay in a processor's cache; compiled where numba
is at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from stpath_core.errors import InputError

_AT_ONCE = 2**15  # numbers of a block: five blocks lie in a processor's cache


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks down each column, ties share their mean: (n, G) -> (n, G) float32. Counts are mostly ties."""
    values = np.asarray(values)
    if values.dtype != np.float32 or values.ndim != 2 or not len(values) or np.isnan(values).any():
        from scipy.stats import rankdata

        return rankdata(values, axis=0).astype(np.float32)
    out = np.empty(values.shape, np.float32)
    for gene in range(values.shape[1]):
        out[:, gene] = _ranks(values[:, gene])
    return out


def _ranks(column: np.ndarray) -> np.ndarray:
    """Average ranks of (n,) float32. Value and place are sorted as one integer: several times as fast as an argsort."""
    bits = (column + np.float32(0)).view(np.int32).astype(np.int64)  # + 0: one zero, not two
    bits = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # in the order of the numbers
    key = np.sort((bits << 32) + np.arange(len(column)))
    value = key >> 32
    first = np.flatnonzero(np.r_[True, value[1:] != value[:-1]])  # of each run of ties
    times = np.diff(first, append=len(key))
    out = np.empty(len(column), np.float32)
    out[key & 0xFFFFFFFF] = np.repeat(first + (times + 1) / 2, times)
    return out


def varies(values: np.ndarray) -> np.ndarray:
    """(G,) whether a column takes more than one value, rounding of float32 set aside."""
    values = np.asarray(values)
    high, low = values.max(0), values.min(0)  # two passes, where ptp and abs make four
    return high - low > 1e-5 * np.maximum(np.abs(high), np.abs(low))


def pearson(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Per column: (n, G), (n, G) -> (G,) float64; nan where a column of either does not vary.

    Float32 about a middle taken from a few rows, float64 from block to block: as exact as a loop over genes in float64,
    to six digits, in one pass over memory.

    Examples
    --------
    >>> pearson(np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 0.0], [3.0, 1.0], [5.0, 2.0]]))
    array([ 1., nan])
    """
    x, y = (np.asarray(v, np.float32) for v in (true, pred))
    if x.shape != y.shape or x.ndim != 2:
        message = f"measured is {x.shape}, predicted {y.shape}; both must be (n, genes) of the same rows and genes"
        raise InputError(message)
    if len(x) < 2 or x.shape[1] == 0:
        return np.full(x.shape[1], np.nan)
    loop = _loop()
    if loop is None:
        return _pearson(x, y)
    out = loop(np.ascontiguousarray(x), np.ascontiguousarray(y))
    left = np.isnan(out)
    if left.any():
        out[left] = _pearson(x[:, left], y[:, left])
    return out


@cache
def _loop() -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """The compiled loop over plain columns; None without numba, or where it cannot compile, keep or read its code."""
    try:
        from numba import config

        from stpath_core.compiled import pearson_of_plain_columns
    except Exception:  # no folder for it, a full disk, a damaged file in it: numpy does the same
        return None
    return None if config.DISABLE_JIT else pearson_of_plain_columns


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`pearson` of float32 by numpy alone; it knows the columns that are constant, or far from their first rows."""
    n, genes = x.shape
    centre = [v[:: max(1, n // 64)].mean(0) for v in (x, y)]
    means, products = _moments(x, y, *centre)
    far = (means**2 > products[1:] / n).any(0)  # those few rows were unlike the others: once more, about the mean
    if far.any():
        nearer = [(c + m)[far].astype(np.float32) for c, m in zip(centre, means, strict=True)]
        means[:, far], products[:, far] = _moments(x[:, far], y[:, far], *nearer)
    known = np.ones(genes, bool)
    for v, middle, squares in zip((x, y), centre, products[1:], strict=True):
        doubtful = ~(squares > n * (1e-4 * middle.astype(float)) ** 2)  # so near to constant that a closer look decides
        if doubtful.any():
            known[doubtful] &= varies(v[:, doubtful])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, products[0] / np.sqrt(products[1] * products[2]), np.nan).clip(-1, 1)


def _moments(x: np.ndarray, y: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of x - x0 and y - y0 per column, (2, G), and sums of xy, xx, yy about the means, (3, G); x, y (n, G)."""
    n, genes = x.shape
    rows = 16 * max(1, _AT_ONCE // (16 * genes))  # of 16 float32 a cache line: blocks begin with one
    space = np.empty(5 * rows * genes + 15, np.float32)
    a, b, ab, middle_x, middle_y = space[-space.ctypes.data // 4 % 16 :][: 5 * rows * genes].reshape(5, rows, genes)
    middle_x[:], middle_y[:] = x0, y0  # a whole block is subtracted faster than a row
    ones, block, sums = np.ones(rows, np.float32), np.empty((5, genes), np.float32), np.zeros((5, genes))
    for start in range(0, n, rows):
        m = min(rows, n - start)
        np.subtract(x[start : start + m], middle_x[:m], out=a[:m])
        np.subtract(y[start : start + m], middle_y[:m], out=b[:m])
        for k, (left, right) in enumerate(((a, b), (a, a), (b, b))):
            np.multiply(left[:m], right[:m], out=ab[:m])
            np.dot(ones[:m], ab[:m], out=block[k])  # a product with ones adds faster than sum
        np.dot(ones[:m], a[:m], out=block[3])
        np.dot(ones[:m], b[:m], out=block[4])
        sums += block
    mx, my = means = sums[3:] / n
    return means, sums[:3] - n * np.stack([mx * my, mx * mx, my * my])


def spearman(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Pearson of average ranks per column, (G,); nan where a column does not vary."""
    return pearson(average_ranks(true), average_ranks(rounding_removed(pred)))


def rounding_removed(pred: np.ndarray) -> np.ndarray:
    """Columns that vary by rounding alone made constant: ranks would blow rounding up."""
    return np.where(varies(pred), pred, 0)
