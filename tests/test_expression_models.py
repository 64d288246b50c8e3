"""Rivals of CPNN, the step beyond it, and the loss that they share: against closed forms and planted effects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpath_core import expression as ex
from stpath_core.losses import gene_pearson_loss
from stpath_core.models import expression_baselines as eb
from stpath_core.models import expression_networks as en
from stpath_core.models.residual import best, fit_residual
from stpath_core.models.stacking import fit_stack


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_loss_is_minus_the_mean_correlation_and_ignores_scale_and_offset(rng):
    true, pred = (torch.tensor(rng.normal(size=(40, 6))) for _ in range(2))
    expected = -ex.pearson(true.numpy(), pred.numpy()).mean()
    assert float(gene_pearson_loss(pred, true)) == pytest.approx(expected, abs=1e-5)
    assert float(gene_pearson_loss(3 * pred + 7, true)) == pytest.approx(expected, abs=1e-5)


def test_the_loss_learns_nothing_between_sections(rng):
    group = torch.tensor(np.repeat([0, 1], 20))
    true, pred = (torch.tensor(rng.normal(size=(40, 3))) for _ in range(2))
    moved = true + 50 * group[:, None]
    assert float(gene_pearson_loss(pred, moved, group)) == pytest.approx(float(gene_pearson_loss(pred, true, group)))
    assert float(gene_pearson_loss(moved, moved)) == pytest.approx(-1, abs=1e-4)


def test_a_prediction_that_does_not_vary_has_a_finite_slope():
    pred = torch.ones(10, 4, requires_grad=True)
    gene_pearson_loss(pred, torch.randn(10, 4)).backward()
    assert torch.isfinite(pred.grad).all()


def test_ridge_is_ridge(rng):
    from sklearn.linear_model import Ridge

    x, y = rng.normal(size=(50, 7)), rng.normal(size=(50, 3))
    for alpha, coef in zip((0.1, 10.0), eb.ridge_path(x, y, (0.1, 10.0)), strict=True):
        assert np.allclose(coef, Ridge(alpha=alpha, fit_intercept=False).fit(x, y).coef_.T)


def test_low_rank_keeps_the_main_axes_of_the_fit(rng):
    x, coef = rng.normal(size=(60, 5)), rng.normal(size=(5, 9))
    full, none, two, all_five = eb.low_rank(x, coef, (None, 0, 2, 5))
    assert np.array_equal(full, coef)
    assert not none.any()
    assert np.linalg.matrix_rank(two) == 2
    assert np.allclose(all_five, coef)
    u, s, vt = np.linalg.svd(x @ coef, full_matrices=False)
    assert np.allclose(x @ two, (u[:, :2] * s[:2]) @ vt[:2])


def planted(rng, *, rank: int, n: int = 240, d: int = 10, g: int = 30, noise: float = 3.0):
    x = rng.normal(size=(n, d))
    y = x @ rng.normal(size=(d, rank)) @ rng.normal(size=(rank, g)) + noise * rng.normal(size=(n, g))
    group = np.repeat(np.arange(6), n // 6)
    return x, y, group, [group % 3 == k for k in range(3)]


def test_inner_folds_find_the_planted_rank_or_the_full_one(rng):
    x, y, group, inner = planted(rng, rank=2)
    model = eb.fit_ridge(x, y, group, inner, ranks=(1, 2, 4, 8, None))
    assert model.rank == 2
    assert model.inner > 0.3
    assert eb.fit_ridge(x, y, group, inner).rank is None


def test_what_finishes_a_prediction_is_part_of_the_choice(rng):
    x, y, group, inner = planted(rng, rank=2)
    upside_down = eb.fit_ridge(x, y, group, inner, finish=lambda v, rows: -v)
    assert upside_down.inner < 0


def test_the_control_moves_rows_within_patients_alone(rng):
    patient = np.repeat(["a", "b"], [6, 4])
    target = np.arange(10)[:, None]
    moved = eb.shuffled(target, patient, seed=1)[:, 0]
    assert sorted(moved[:6]) == list(range(6))
    assert sorted(moved[6:]) == [6, 7, 8, 9]
    assert not np.array_equal(moved, np.arange(10))


def test_where_prototypes_explain_everything_nothing_is_added(rng):
    x, y, group, inner = planted(rng, rank=2, noise=1.0)
    free = rng.normal(size=x.shape)  # features that know nothing
    plus = fit_residual(2 * y - rng.normal(size=y.shape), free, y, group, inner)
    assert plus.residual.rank == 0
    assert 0.3 < plus.slope < 0.6
    assert not plus.residual.coef.any()


def test_what_prototypes_leave_is_found_and_counts_in_the_inner_score(rng):
    x, y, group, inner = planted(rng, rank=1, noise=0.5)
    half = y.copy()
    half[:, 15:] = rng.normal(size=(len(y), 15))  # half the genes are explained
    plus = fit_residual(half, x, y, group, inner)
    assert plus.residual.rank >= 1
    assert plus.inner[1] > plus.inner[0] + 0.1


def test_prototypes_that_know_nothing_lose_their_say(rng):
    x, y, group, inner = planted(rng, rank=1, noise=0.5)
    plus = fit_residual(rng.normal(size=y.shape) - 0.2 * y, x, y, group, inner)
    assert plus.slope == 0


def test_a_constant_is_never_the_choice():
    few, constant = (0.5, 0, 1e3, None), (0.0, 0, 1e5, None)
    assert best({few: [-0.1, -0.2, 0.05], constant: [0.0, 0.0, 0.0]}) == few


def parts(rng, *, n: int = 60, g: int = 40):
    """Two signals of which the target is the sum, each seen through noise of its own, and three inner folds."""
    a, b = rng.normal(size=(2, n, g))
    return a, b, a + b, [np.arange(n) % 3 == k for k in range(3)]


def test_two_halves_are_added_and_beat_each_of_them(rng):
    a, b, y, inner = parts(rng)
    stacked = fit_stack(a, b, y + rng.normal(size=y.shape), inner)
    np.testing.assert_allclose(stacked.shares, (1, 1), atol=0.1)
    assert stacked.inner[2] > max(stacked.inner[:2]) + 0.1
    np.testing.assert_allclose(stacked(a, b), stacked.shares[0] * a + stacked.shares[1] * b)


def test_what_knows_nothing_or_the_opposite_gets_no_share(rng):
    a, _, _, inner = parts(rng)
    y = a + rng.normal(size=a.shape)
    assert fit_stack(a, -a + 0.1 * rng.normal(size=a.shape), y, inner).shares[1] == 0
    assert abs(fit_stack(a, rng.normal(size=a.shape), y, inner).shares[1]) < 0.06
    assert fit_stack(-a, -a, y, inner).shares == (1, 0)  # neither: the first as it stands


def test_shares_do_not_hang_on_the_genes_units(rng):
    a, b, y, inner = parts(rng)
    unit = np.geomspace(0.1, 10, y.shape[1])
    here, there = fit_stack(a, b, y, inner), fit_stack(a * unit, b * unit, y * unit, inner)
    np.testing.assert_allclose(here.shares, there.shares, atol=0.02)


def test_retrieval_is_rewarded_for_matching_pairs():
    one = torch.eye(6)
    assert float(en.retrieval_loss(one, one)) < float(en.retrieval_loss(one, one.roll(1, 0)))


def test_retrieval_answers_with_the_mean_of_its_nearest():
    model = en.TwoHeads(4, 4, width=8, dropout=0.0)
    model.expression.load_state_dict(model.image.state_dict())  # one map for both: nearest is what is equal
    known = np.eye(4, dtype=np.float32)
    assert np.allclose(en.retrieved(model, known, known, k=1), known)
    assert np.allclose(en.retrieved(model, known, known, k=4), 0.25)
