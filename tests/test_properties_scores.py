"""What must hold of any score: oracles of scipy and scikit-learn on ties and constants, renaming, order, bounds."""

from __future__ import annotations

import warnings
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import f1_score

from stpath_core import correlation, evaluate, metrics, mixing, probes
from stpath_core import expression as ex

SOME = settings(max_examples=60)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
PAIRS = st.integers(2, 30).flatmap(lambda n: arrays(np.float32, (2, n, 3), elements=st.one_of(
    st.integers(0, 4), st.just(0.1), st.floats(-30, 30, width=16))))  # fmt: skip
maps = arrays(np.int32, (2, 6, 7), elements=st.integers(0, 5))
places = arrays(float, st.tuples(st.integers(0, 6), st.just(2)), elements=st.integers(0, 30))
words = st.sampled_from(["tumour", "immune", "fat", "gland"])


def oracle(of, x, y):
    with warnings.catch_warnings(action="ignore"):  # scipy warns of constants
        return np.array([of(x[:, g].astype(float), y[:, g].astype(float)).statistic for g in range(x.shape[1])])


@pytest.mark.parametrize("loop", [correlation._loop, lambda: None], ids=["compiled", "numpy"])
@SOME
@given(PAIRS)
def test_correlations_are_scipys_on_ties_and_undefined_on_constants(loop, pair):
    with patch.object(correlation, "_loop", loop):
        correlations_are_scipys(*pair)


def correlations_are_scipys(x, y):
    steady = ~((np.ptp(x, 0) > 0) & (np.ptp(y, 0) > 0))
    almost = ~(ex.varies(x) & ex.varies(y)) & ~steady
    assume(not almost.any())  # what varies by less than rounding is held for constant
    for ours, theirs in ((ex.pearson, stats.pearsonr), (ex.spearman, stats.spearmanr)):
        found = ours(x, y)
        np.testing.assert_array_equal(np.isnan(found), steady)
        np.testing.assert_allclose(found[~steady], oracle(theirs, x, y)[~steady], atol=2e-5)
        np.testing.assert_array_equal(found, ours(y, x))
        assert (np.abs(found[~steady]) <= 1).all()
    scored = ex.gene_scores(x, y)["scc"]
    assert np.isnan(scored).all() if not ex.varies(y).any() else (scored[steady] == 0).all()


@SOME
@given(PAIRS, st.randoms(use_true_random=False), st.integers(1, 8), st.integers(-20, 20))
def test_spots_and_genes_in_another_order_or_unit_score_the_same(pair, random, scale, shift):
    x, y = np.round(pair, 2)
    rows, genes = (random.sample(range(n), n) for n in x.shape)
    before = ex.gene_scores(x, y)
    for name, after in ex.gene_scores(x[rows][:, genes], y[rows][:, genes]).items():
        np.testing.assert_allclose(after, before[name][genes], atol=2e-5)
    ranked = ex.spearman(x, y)
    np.testing.assert_allclose(ex.spearman(x, ex.average_ranks(y) * scale + shift), ranked, atol=2e-5)
    np.testing.assert_allclose(ex.spearman(x, -y), -ranked, atol=2e-5)


@SOME
@given(arrays(np.float32, st.tuples(st.integers(1, 40), st.just(2)),
              elements=st.one_of(FLOATS, st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf]))))  # fmt: skip
def test_ranks_are_scipys_for_any_float(values):
    np.testing.assert_array_equal(ex.average_ranks(values), stats.rankdata(values, axis=0))


@SOME
@given(st.lists(st.tuples(words, st.sampled_from(["tumour", "immune", "fat", "gland", "none of these"])), min_size=1))
def test_macro_f1_is_scikit_learns_over_the_classes_that_are_there(pairs):
    true, said = (np.array(column) for column in zip(*pairs, strict=True))
    wanted = f1_score(true, said, average="macro", labels=np.unique(true), zero_division=0)
    assert probes.macro_f1(true, said) == pytest.approx(wanted)
    assert probes.macro_f1(true, true) == 1
    assert probes.confusion(true, said, np.union1d(true, said)).sum() == len(true)


@SOME
@given(maps)
def test_scores_of_masks_lie_between_nothing_and_one_and_most_do_not_care_which_is_the_truth(pair):
    true, pred = pair
    scores = {of: (of(true, pred), of(pred, true)) for of in (metrics.pq, metrics.dice, metrics.aji)}
    for of, (one, other) in scores.items():
        assert np.isnan(one) == np.isnan(other) == (not true.any() and not pred.any())
        assert np.isnan(one) or 0 <= one <= 1
        if of is not metrics.aji:
            np.testing.assert_allclose(one, other)
        for k in range(1, 4):  # nor how the image lies
            np.testing.assert_allclose(of(np.rot90(true, k), np.rot90(pred, k)), one)
    found = metrics.bpq_tiles(true, pred, mpp=0.5, tile_px=4)
    assert ((found >= 0) & (found <= 1)).all()
    assert (metrics.bpq_tiles(true, true, mpp=0.5, tile_px=4) == 1).all()


@SOME
@given(places, places, st.randoms(use_true_random=False))
def test_detection_knows_neither_order_nor_side(true, pred, random):
    found = metrics.detection_f1(true, pred)
    shuffled = true[random.sample(range(len(true)), len(true))]
    np.testing.assert_equal(metrics.detection_f1(shuffled, pred), found)
    np.testing.assert_equal(metrics.detection_f1(pred, true), found)
    np.testing.assert_equal(metrics.detection_f1(true, true), 1.0 if len(true) else np.nan)
    np.testing.assert_equal(metrics.detection_f1(true, pred + 100), np.nan if not len(true) + len(pred) else 0.0)


@st.composite
def embeddings(draw):
    """Points in the plane, many of them in one place, each of one of two to four groups, every group there."""
    n = draw(st.integers(8, 40))
    x = draw(arrays(float, (n, 2), elements=st.integers(-3, 3)))
    group = draw(arrays(np.int8, n, elements=st.integers(0, 3)))
    group[:2] = 0, 1
    return x, np.array(["a", "b", "c", "d"])[group]


@SOME
@given(embeddings())
def test_mixing_keeps_to_its_bounds_wherever_the_points_lie(drawn):
    x, group = drawn
    k = len(np.unique(group))
    each = mixing.lisi(x, group)
    assert ((each > 1 - 1e-9) & (each < k + 1e-9)).all()
    np.testing.assert_allclose(mixing.lisi(x, np.full(len(x), "a")), 1)
    assert -1e-9 <= mixing.ilisi(x, group) <= 1 + 1e-9
    assert mixing.ilisi(x, group) + mixing.clisi(x, group) == pytest.approx(1)
    assert 0 < mixing.graph_connectivity(x, group) <= 1
    # all others are neighbours here, so the share of strangers is known, whatever lies on one place
    strangers = [(group != own).sum() / (len(group) - 1) for own in group]
    if len(group) <= 31:
        assert mixing.mixing(x, group) == pytest.approx(np.mean(strangers))


@SOME
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 4)), min_size=1, max_size=20), st.integers(0, 9))
def test_an_interval_holds_the_range_of_its_patients_and_is_repeated(values, seed):
    value, patient = (np.array(column) for column in zip(*values, strict=True))
    found = evaluate.bootstrap(value, patient, n=200, seed=seed)
    assert found.mean == pytest.approx(value.mean())
    np.testing.assert_equal(tuple(evaluate.bootstrap(value, patient, n=200, seed=seed)), tuple(found))
    if len(np.unique(patient)) == 1:
        assert np.isnan(found.lo)
        assert np.isnan(found.hi)
    else:
        assert value.min() - 1e-9 <= found.lo <= found.hi <= value.max() + 1e-9
    apart = evaluate.paired_difference(value, value, patient, n=50)
    assert (apart.mean, apart.sign_p) == (0, 1)


def test_a_constant_has_no_correlation_however_many_rows_there_are():
    rng = np.random.default_rng(0)
    for n in (3, 5_000, 200_000):
        noise, flat = rng.normal(size=(n, 2)), np.full((n, 2), 1.3)
        assert np.isnan(ex.pearson(flat, noise)).all()
        assert np.isnan(ex.pearson(flat, flat * 0.1)).all()
    moved = 1e3 + rng.normal(size=(200_000, 2))  # far from zero, and it varies
    np.testing.assert_allclose(ex.pearson(moved, 2 * moved), 1, atol=1e-5)
