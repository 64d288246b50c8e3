"""Two ways to a correlation, a compiled loop and numpy: the same numbers for any columns, with numba and without."""

from __future__ import annotations

import sys
from functools import cache
from unittest.mock import Mock

import numpy as np
import pytest

from stpath_core import correlation


def read_only(values):
    values = values.copy()
    values.flags.writeable = False
    return values


@pytest.mark.parametrize("n", [2, 3, 63, 64, 65, 130, 1001, 40_001])
def test_the_compiled_loop_leaves_what_is_not_plain_to_numpy_and_both_give_the_same(n):
    """A column nearly constant, one constant, one that overflows, one with nan; one unlike its rows looked at first."""
    loop, rng = correlation._loop(), np.random.default_rng(n)
    assert loop is not None, "numba is locked, and its loop is not in use"
    x = rng.normal(size=(n, 7)).astype(np.float32)
    y = (x + rng.normal(size=x.shape)).astype(np.float32)
    if n > 1000:
        x[:: n // 64, 1] += 1e4
    x[:, 2], x[:, 3], x[0, 4], x[n // 2, 5] = 1 + 1e-5 * x[:, 2], 3, 3e38, np.nan
    with np.errstate(over="ignore", invalid="ignore"):
        plain, found, by_numpy = loop(x, y), correlation.pearson(x, y), correlation._pearson(x, y)
        for view in (np.asfortranarray, lambda v: np.repeat(v, 2, 0)[::2], read_only):
            np.testing.assert_array_equal(correlation.pearson(view(x), view(y)), found)
    assert np.isnan(plain[2:6]).all()
    assert np.isnan(plain[1]) == (n > 1000)
    assert np.isfinite(plain[[0, 6]]).all()
    np.testing.assert_allclose(found, by_numpy, atol=1e-6)


@pytest.mark.parametrize("why", ["not installed", "no folder for its code", "damaged code", "switched off"])
def test_without_numba_correlations_are_numpys(why, monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    found = correlation.pearson(x, y)
    monkeypatch.delitem(sys.modules, "stpath_core.compiled")
    if why == "not installed":
        monkeypatch.setitem(sys.modules, "numba", None)
    elif why == "switched off":
        monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    else:
        error = (
            RuntimeError("no locator available") if why == "no folder for its code" else EOFError("Ran out of input")
        )
        monkeypatch.setattr("numba.njit", Mock(side_effect=error))
    monkeypatch.setattr(correlation, "_loop", cache(correlation._loop.__wrapped__))
    assert correlation._loop() is None
    np.testing.assert_allclose(correlation.pearson(x, y), found, atol=1e-6)
