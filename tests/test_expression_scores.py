"""Scores of predicted expression: equal to slow oracles, honest about ties, constants, folds and shared patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

from stpath_core import expression as ex
from stpath_core import noise
from stpath_core.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_target_is_log1p_of_counts_per_ten_thousand_of_all_genes():
    counts = np.array([[1, 0, 9], [0, 0, 0]])
    expected = np.log1p(np.array([[1000, 0, 9000], [0, 0, 0]]))
    assert np.allclose(ex.target(counts), expected)
    assert np.allclose(ex.target(csr_matrix(counts), [2, 0]), expected[:, [2, 0]])


def test_panel_is_chosen_on_the_given_rows_alone_and_breaks_ties_by_column():
    counts = csr_matrix(np.array([[5, 1, 1, 0], [0, 0, 0, 900]]))
    assert ex.panel(counts, np.array([True, False]), 3).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="wants 9 genes"):
        ex.panel(counts, np.array([0]), 9)


def test_every_patient_is_held_out_once_and_whole():
    patients = np.repeat([f"p{k}" for k in range(7)], [9, 1, 4, 4, 2, 6, 3])
    for n in (None, 3):
        folds = ex.patient_folds(patients, n, seed=1)
        assert np.array_equal(np.sum(folds, axis=0), np.ones(len(patients)))
        assert len(folds) == (n or 7)
        for test in folds:
            ex.audit_patients(patients[~test], patients[test])
    assert max(f.sum() for f in folds) <= 11  # 29 spots in three folds, the largest patient has 9
    with pytest.raises(InputError, match="8 folds of 7 patients"):
        ex.patient_folds(patients, 8)


def test_patients_on_both_sides_or_without_a_name_are_refused():
    with pytest.raises(InputError, match="1 patients are in train and in test \\(b\\)"):
        ex.audit_patients(["a", "b"], ["b", "c"])
    with pytest.raises(InputError, match="1 rows without a patient"):
        ex.audit_patients(["a", "nan"], ["b"])
    with pytest.raises(InputError, match="no rows"):
        ex.audit_patients(["a"], [])


def test_correlations_equal_those_of_scipy_also_on_ties(rng):
    true = rng.poisson(0.7, (200, 12)).astype(float)
    pred = np.round(true + rng.normal(size=true.shape), 1)
    for ours, theirs in ((ex.pearson, stats.pearsonr), (ex.spearman, stats.spearmanr)):
        expected = [theirs(true[:, g], pred[:, g]).statistic for g in range(12)]
        assert np.allclose(ours(true, pred), expected, atol=1e-6)
    assert np.allclose(ex.pearson(true + 1e4, pred), ex.pearson(true, pred), atol=2e-3)  # centred first


def test_a_gene_that_does_not_vary_counts_as_zero_and_a_constant_predictor_has_no_score(rng):
    true = rng.normal(size=(50, 4))
    true[:, 1] = 3
    pred = true.copy()
    pred[:, 2] = 0.1
    assert ex.gene_scores(true, pred)["pcc"].tolist() == pytest.approx([1, 0, 0, 1])
    assert np.isnan(ex.gene_scores(true, np.ones_like(true) * 0.3)["scc"]).all()
    nearly = (np.ones_like(true) * 0.3 * (1 + 1e-7 * rng.normal(size=true.shape))).astype(np.float32)
    assert np.isnan(ex.gene_scores(true, nearly)["scc"]).all()  # rounding is no prediction


def test_genes_outside_the_panel_are_left_out_and_half_missing_ones_refused(rng):
    true = rng.normal(size=(30, 3))
    true[:, 0] = np.nan
    assert np.isnan(ex.gene_scores(true, rng.normal(size=(30, 3)))["pcc"]).tolist() == [True, False, False]
    true[3, 1] = np.nan
    with pytest.raises(InputError, match="1 measured and 0 predicted genes"):
        ex.gene_scores(true, np.ones((30, 3)))


@pytest.fixture
def spots(rng):
    section = np.repeat(["a1", "a2", "b1"], 60)
    patient = np.repeat(["a", "a", "b"], 60)
    true = rng.normal(size=(180, 5))
    good = true + rng.normal(size=true.shape)
    return true, {"good": good, "mean": np.zeros_like(true), "noise": rng.normal(size=true.shape)}, patient, section


def test_spot_scores_are_means_over_genes_then_sections_then_patients(spots):
    true, methods, patient, section = spots
    scores = ex.score_spots(true, methods, patient=patient, section=section)
    each = [
        np.mean([stats.spearmanr(true[section == s, g], methods["good"][section == s, g]).statistic for g in range(5)])
        for s in ("a1", "a2", "b1")
    ]
    row = scores.table().set_index(["method", "measure"]).loc[("good", "scc")]
    assert row["mean"] == pytest.approx((np.mean(each[:2]) + each[2]) / 2)
    assert row["over_sections"] == pytest.approx(np.mean(each))
    assert np.isnan(scores.table().set_index(["method", "measure"]).loc[("mean", "pcc"), "mean"])
    gap = scores.difference("good", "noise", "pcc")
    assert gap.mean == pytest.approx((scores.patients("good", "pcc") - scores.patients("noise", "pcc")).mean())
    assert gap.sign_p == 0.5  # two patients cannot say more


def test_offsets_between_sections_do_not_score(spots):
    true, methods, patient, section = spots
    offset = (section == "b1")[:, None] * 10.0
    moved = ex.score_spots(true + offset, {"x": methods["noise"] + offset}, patient=patient, section=section)
    still = ex.score_spots(true, {"x": methods["noise"]}, patient=patient, section=section)
    assert moved.table()["mean"].to_numpy() == pytest.approx(still.table()["mean"].to_numpy(), abs=1e-4)


def test_slide_scores_stay_within_folds_and_draw_slides(rng):
    true, fold = rng.normal(size=(60, 8)), np.repeat([0, 1], 30)
    pred = true + rng.normal(size=true.shape)
    shifted = pred + 100 * fold[:, None]  # folds' models differ in level: no score may come of that
    scores = ex.score_slides(true, {"pred": pred, "shifted": shifted}, fold=fold, n=300)
    each = [
        np.mean([stats.pearsonr(true[fold == k, g], pred[fold == k, g]).statistic for g in range(8)]) for k in (0, 1)
    ]
    assert scores.mean("pred", "pcc") == pytest.approx(np.mean(each), abs=1e-6)
    assert scores.mean("shifted", "pcc") == pytest.approx(scores.mean("pred", "pcc"), abs=1e-4)
    table = scores.table().set_index(["method", "measure"])
    assert (table.lo < table["mean"]).all()
    assert (table["mean"] < table.hi).all()
    assert scores.difference("pred", "pred").hi == 0


def test_drawn_correlations_are_those_of_repeated_slides(rng):
    true, pred = rng.normal(size=(2, 20, 3))
    weights = rng.multinomial(20, np.full(20, 0.05), size=4).astype(float)
    drawn = ex._drawn(true, pred, np.zeros(3), weights, ranked=False)
    for row, w in zip(drawn, weights.astype(int), strict=True):
        assert row == pytest.approx(ex.pearson(np.repeat(true, w, 0), np.repeat(pred, w, 0)).mean(), abs=1e-5)


def test_halves_add_up_and_tell_how_far_a_perfect_predictor_gets(rng):
    rate = np.exp(rng.normal(0, 0.5, (1500, 40)) + rng.normal(0, 1, 40))
    deep = np.hstack([rate, np.full((1500, 1), 4000.0)])  # a large constant gene keeps totals alike
    counts = csr_matrix(rng.poisson(deep))
    a, b = noise.halves(counts, rng=rng)
    assert abs(a + b - counts).sum() == 0
    reached = ex.pearson(ex.target(counts, range(40)), np.log1p(rate * 1e4 / deep.sum(1, keepdims=True)))
    found = noise.ceiling(counts, range(40), np.full(1500, "s"))
    assert found.loc["s", "pcc"] == pytest.approx(reached.mean(), abs=0.03)
    assert found.loc["s", "halves_pcc"] < 0.6 * found.loc["s", "pcc"]
    each = noise.perfect(noise.gene_halves(counts, range(40), np.full(1500, "s"), repeats=6)["pcc"][0])
    assert np.corrcoef(each, reached)[0, 1] > 0.9


@pytest.mark.parametrize(("factor", "covered"), [(1.0, 0.8), (8.0, 0.45)])
def test_predicted_spread_is_judged_by_coverage(rng, factor, covered):
    mean, theta = np.full((4000, 3), 20.0), np.array([2.0, 5.0, 10.0])
    counts = rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape))
    pit = noise.nb_pit(counts, mean, theta * factor)
    assert noise.coverage(pit)[0.8] == pytest.approx(covered, abs=0.08 if factor > 1 else 0.02)
    if factor == 1:
        assert stats.kstest(pit.ravel(), "uniform").pvalue > 0.01
    with pytest.raises(InputError, match="every mean above 0"):
        noise.nb_pit(counts, 0 * mean, theta)
