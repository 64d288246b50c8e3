"""Loops that numba compiles, where it is installed: scanpy brings it; a GPU server that only trains does without.

Numba keeps what it compiled beside the module: the first process waits two seconds for it, a later one the fraction of
a second that loading takes.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

_MATRIX = types.Array(types.float32, 2, "C", readonly=True)  # takes those that may be written, too


@njit(types.float64[::1](_MATRIX, _MATRIX), cache=True, error_model="numpy")
def pearson_of_plain_columns(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Per column of (n, G), (n, G): (G,); nan where `correlation.pearson` has to look closer.

    Float32 about a middle taken from a few rows, four rows at once; float64 from block to block.
    """
    n, genes = x.shape
    few = max(1, n // 64)
    x0, y0 = np.zeros(genes, np.float32), np.zeros(genes, np.float32)
    for i in range(0, n, few):
        for g in range(genes):
            x0[g] += x[i, g]
            y0[g] += y[i, g]
    looked = np.float32(len(range(0, n, few)))
    x0 /= looked
    y0 /= looked
    block, sums = np.empty((5, genes), np.float32), np.zeros((5, genes))
    for start in range(0, n, 64):
        stop, block[:] = min(n, start + 64), 0
        fours = stop - (stop - start) % 4
        for i in range(start, fours, 4):
            for g in range(genes):
                a, b, c, d = x[i, g] - x0[g], x[i + 1, g] - x0[g], x[i + 2, g] - x0[g], x[i + 3, g] - x0[g]
                p, q, r, s = y[i, g] - y0[g], y[i + 1, g] - y0[g], y[i + 2, g] - y0[g], y[i + 3, g] - y0[g]
                block[0, g] += a * p + b * q + c * r + d * s
                block[1, g] += a * a + b * b + c * c + d * d
                block[2, g] += p * p + q * q + r * r + s * s
                block[3, g] += a + b + c + d
                block[4, g] += p + q + r + s
        for i in range(fours, stop):
            for g in range(genes):
                a, p = x[i, g] - x0[g], y[i, g] - y0[g]
                block[0, g] += a * p
                block[1, g] += a * a
                block[2, g] += p * p
                block[3, g] += a
                block[4, g] += p
        for k in range(5):
            for g in range(genes):
                sums[k, g] += block[k, g]
    out = np.full(genes, np.nan)
    for g in range(genes):
        mx, my = sums[3, g] / n, sums[4, g] / n
        xx, yy = sums[1, g] / n - mx * mx, sums[2, g] / n - my * my
        centred = mx * mx <= xx and my * my <= yy
        vary = xx > (1e-4 * x0[g]) ** 2 and yy > (1e-4 * y0[g]) ** 2
        if centred and vary and np.isfinite(xx * yy):
            out[g] = min(max((sums[0, g] / n - mx * my) / np.sqrt(xx * yy), -1.0), 1.0)
    return out
