"""CPNN: mixtures by hand, bags of any size, what an ablation switches off, and views of a trained model."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from stpath_core import cpnn_views, keys
from stpath_core import expression_tables as et
from stpath_core.errors import InputError
from stpath_core.models import cpnn


@pytest.fixture
def model():
    torch.manual_seed(0)
    profiles = torch.tensor(np.exp(np.random.default_rng(0).normal(size=(3, 8))))
    return cpnn.CPNN(5, profiles, widths=(16, 8), dropout=0.0)


def test_a_spot_is_the_mixture_of_prototypes(model):
    x = torch.randn(7, 5)
    w, pred = cpnn.answer(model, x)
    assert w.sum(1).numpy() == pytest.approx(np.ones(7), abs=1e-5)
    assert torch.allclose(pred, (w @ model.start.exp()).log1p(), atol=1e-5)


def test_bags_do_not_depend_on_padding_or_order(model):
    x, mask = torch.randn(2, 6, 5), torch.ones(2, 6)
    mask[1, 4:] = 0
    rho, w = model.slide(x, mask)
    other = x.clone()
    other[1, 4:] = 99.0
    other[0] = other[0, torch.randperm(6)]
    again, w_again = model.slide(other, mask)
    assert torch.allclose(rho, again, atol=1e-6)
    assert torch.allclose(w, w_again, atol=1e-6)
    assert rho.sum(1).detach().numpy() == pytest.approx(np.ones(2), abs=1e-5)
    alone, _ = model.slide(x[1:, :1], torch.ones(1, 1))  # a slide with one patch
    assert torch.isfinite(alone).all()


def test_the_slide_formula_is_the_papers(model):
    with torch.no_grad():
        model.log_factor.normal_()
        model.log_added.fill_(-1.0)
    x = torch.randn(1, 4, 5)
    rho, _ = model.slide(x, torch.ones(1, 4))
    e = model.weights(x[0])[:, :, None] * model.log_profiles.exp()  # (N, C, G)
    y = (model.log_factor.exp() * e.sum(1) + model.log_added.exp()).mean(0)
    assert torch.allclose(rho[0], y / y.sum(), atol=1e-6)


def test_the_likelihood_is_the_negative_binomials():
    rng = np.random.default_rng(0)
    mean, theta = rng.uniform(0.5, 300, (6, 4)), np.array([0.3, 2.0, 50.0, 1e4])
    counts = rng.poisson(mean)
    expected = -stats.nbinom.logpmf(counts, theta, theta / (theta + mean)).mean()
    found = cpnn.nb_loss(*(torch.tensor(v, dtype=torch.float32) for v in (counts, mean, theta)))
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_what_is_switched_off_does_not_learn():
    profiles = torch.rand(3, 8) + 0.1
    frozen = cpnn.CPNN(5, profiles, widths=(16, 8), trainable=False, correction=False)
    x, y, shares = torch.randn(12, 5), torch.randn(12, 8), torch.full((12, 3), 1 / 3)
    cpnn.spot_loss(frozen, x, y, shares, cpnn.Regularisers()).backward()
    assert frozen.log_profiles.grad is None
    assert frozen.log_factor.grad is None
    assert frozen.head.weight.grad.abs().sum() > 0
    free = cpnn.CPNN(5, profiles, widths=(16, 8))
    cpnn.spot_loss(free, x, y, shares, cpnn.Regularisers()).backward()
    assert free.log_profiles.grad.abs().sum() > 0


def test_each_regulariser_pulls_where_it_says(model):
    x, y = torch.randn(12, 5), torch.randn(12, 8)
    shares = model.weights(x).detach()

    def loss(target: torch.Tensor, weights: float, prototypes: float) -> float:
        return float(cpnn.spot_loss(model, x, y, target, cpnn.Regularisers(weights, prototypes)).detach())

    assert loss(shares, 5, 1) == pytest.approx(loss(shares, 0, 0), abs=1e-3)
    assert loss(shares.roll(1, 1), 5, 0) > loss(shares, 5, 0) + 0.05
    with torch.no_grad():
        model.log_profiles.add_(0.5)
    assert loss(shares, 0, 1) - loss(shares, 0, 0) == pytest.approx(0.25, abs=1e-4)


def test_weights_begin_at_the_mean_shares_for_every_patch(model):
    model.begin_at(torch.tensor([0.7, 0.2, 0.1]))
    w = model.weights(torch.randn(9, 5))
    assert w.detach().numpy() == pytest.approx(np.tile([0.7, 0.2, 0.1], (9, 1)), abs=1e-5)


def test_random_prototypes_keep_the_level_of_genes_and_lose_the_types():
    like = torch.exp(torch.randn(40, 30) + torch.linspace(-2, 2, 30))
    drawn = cpnn.random_profiles(like, seed=1)
    assert np.corrcoef(drawn.log().mean(0), like.log().mean(0))[0, 1] > 0.95
    assert (
        abs(np.corrcoef((drawn.log() - drawn.log().mean(0)).ravel(), (like.log() - like.log().mean(0)).ravel())[0, 1])
        < 0.1
    )


def test_profiles_must_be_positive():
    with pytest.raises(InputError, match="all above 0"):
        cpnn.CPNN(5, torch.zeros(3, 8))


def test_drivers_share_out_the_predicted_variance():
    rng = np.random.default_rng(0)
    weights = pd.DataFrame(rng.dirichlet(np.ones(3), 50), columns=list("abc"))
    profiles = pd.DataFrame(rng.normal(size=(3, 6)), index=list("abc"), columns=[f"g{i}" for i in range(6)])
    shares = cpnn_views.drivers(weights, profiles)
    assert shares.sum().to_numpy() == pytest.approx(np.ones(6))
    profiles.loc["a", "g0"] = 6.0  # by far the largest source
    assert cpnn_views.drivers(weights, profiles)["g0"].idxmax() == "a"


def test_prototypes_are_read_from_a_checkpoint_and_refused_from_anything_else(model, tmp_path):
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, tmp_path / "ok.safetensors", {"genes": ",".join(f"g{i}" for i in range(8))})
    found = cpnn_views.read_prototypes(tmp_path / "ok.safetensors", list("abc"))
    assert found.moved().abs().to_numpy().max() == 0
    with pytest.raises(InputError, match="of one run"):
        cpnn_views.read_prototypes(tmp_path / "ok.safetensors", list("ab"))
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no checkpoint of CPNN"):
        cpnn_views.read_prototypes(tmp_path / "no.safetensors", list("abc"))


def depths() -> anndata.AnnData:
    """Two folds whose genes follow depth, and one method that knows depth and one that knows the rest."""
    rng = np.random.default_rng(1)
    section = np.repeat(["s0", "s1"], 100)
    total, rest = rng.lognormal(8, 0.5, 200), rng.normal(size=(200, 12))
    depth = np.log1p(total)[:, None]
    adata = anndata.AnnData(np.zeros((200, 12), np.float32))
    columns = {"section": section, "patient": section, "fold": np.repeat([0, 1], 100)}
    adata.obs = pd.DataFrame(columns, index=adata.obs_names)
    adata.obs[keys.TOTAL_COUNTS] = total
    adata.obsm["spatial"] = np.tile(112.0 * np.stack(np.meshgrid(range(10), range(10)), -1).reshape(-1, 2), (2, 1))
    adata.layers["target"] = (2 * depth + 0.5 * rest).astype(np.float32)
    adata.layers["deep"] = np.repeat(depth, 12, axis=1).astype(np.float32)
    adata.layers["wise"] = rest.astype(np.float32)
    return adata


def test_depth_is_told_from_what_is_left_without_it():
    adata = depths()
    scores = et.spot_scores(adata, {"depth": et.depth_predictor(adata)}).table(n=20)
    pcc = scores[scores.measure == "pcc"].set_index("method")["mean"]
    assert pcc["depth"] == pytest.approx(pcc["deep"], abs=1e-3)
    assert pcc["depth"] > 0.8
    left = et.without_depth(adata, ["deep", "wise"])
    assert abs(left.loc["deep", "partial"]) < 0.1
    assert left.loc["wise", "partial"] > 0.95
    assert left.loc["deep", "with_depth"] > 0.99


def test_smoothing_the_measured_side_inflates():
    adata = depths()
    rng = np.random.default_rng(2)
    hill = np.sin(adata.obsm["spatial"][:, :1] / 300)
    adata.layers["target"] = (hill + 2 * rng.normal(size=adata.shape)).astype(np.float32)
    adata.layers["hill"] = np.repeat(hill, 12, axis=1).astype(np.float32)
    plain, dream = (
        et.spot_scores(a).table(n=10).set_index(["method", "measure"])["mean"]
        for a in (adata, et.smoothed_target(adata))
    )
    assert dream["hill", "pcc"] > 1.5 * plain["hill", "pcc"]
