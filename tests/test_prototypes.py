"""Prototypes and deconvolution: planted profiles and shares come back, donors go, and bad references are refused."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from stpath_core import deconvolution as dc
from stpath_core import keys
from stpath_core import prototypes as pt
from stpath_core.errors import InputError

TYPES = ["A", "B", "C"]


def planted(rng, *, genes: int = 120, cells: int = 600, donor_sd: float = 0.8, confounded: bool = True):
    """Three types, three donors; a donor mostly gives one type, and has a factor of its own on every gene."""
    profiles = pd.DataFrame(
        np.exp(rng.normal(0, 1, (3, genes))), index=TYPES, columns=[f"GENE{i}" for i in range(genes)]
    )
    donor = rng.integers(3, size=cells)
    kind = np.where(rng.random(cells) < 0.7, donor, rng.integers(3, size=cells)) if confounded else donor
    factor = np.exp(donor_sd * rng.normal(size=(3, genes)))
    adata = anndata.AnnData(csr_matrix(rng.poisson(profiles.to_numpy()[kind] * factor[donor]).astype(np.int32)))
    adata.var_names = profiles.columns
    adata.obs_names = [f"c{i}" for i in range(cells)]
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs["donor"], adata.obs["cell_type"] = [f"d{k}" for k in donor], np.array(TYPES)[kind]
    return adata, profiles


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_regression_takes_out_what_donors_add_and_the_plain_mean_does_not(rng):
    adata, profiles = planted(rng)
    types = pt.usable_types(adata)
    fitted = pt.centred_cosine(pt.fit_prototypes(adata, types).profiles, profiles).mean()
    plain = pt.centred_cosine(pt.naive(adata, types), profiles).mean()
    assert fitted > 0.85
    assert fitted > plain + 0.05


def test_without_donor_effects_both_agree_with_the_truth(rng):
    adata, profiles = planted(rng, donor_sd=0.0)
    types = pt.usable_types(adata)
    found = pt.fit_prototypes(adata, types)
    assert pt.centred_cosine(found.profiles, profiles).min() > 0.97
    assert found.profiles.to_numpy() == pytest.approx(pt.naive(adata, types).to_numpy(), rel=0.5, abs=0.3)


def test_one_donor_is_told_and_fitted(rng):
    adata, profiles = planted(rng, donor_sd=0.0)
    adata.obs["donor"] = "d0"
    found = pt.fit_prototypes(adata, pt.usable_types(adata))
    assert "one donor (d0)" in found.note
    assert not found.batch.any()
    assert pt.centred_cosine(found.profiles, profiles).min() > 0.97


def test_small_types_are_dropped_or_pooled_by_choice(rng):
    adata, _ = planted(rng)
    adata.obs.loc[adata.obs_names[:20], "cell_type"] = "rare"
    adata.obs.loc[adata.obs_names[20:40], "cell_type"] = "rarer"
    assert pt.usable_types(adata).isna().sum() == 40
    assert (pt.usable_types(adata, small="pool") == pt.POOLED).sum() == 40
    adata.obs["cell_type"] = [f"t{i}" for i in range(adata.n_obs)]
    with pytest.raises(InputError, match="no type has 25 cells"):
        pt.usable_types(adata)


def test_a_reference_that_cannot_be_fitted_is_refused(rng):
    adata, _ = planted(rng)
    types = pt.usable_types(adata)
    adata.layers[keys.COUNTS] = adata.layers[keys.COUNTS] * 0.5
    with pytest.raises(InputError, match="the reference"):
        pt.fit_prototypes(adata, types)
    adata, _ = planted(rng)
    with pytest.raises(InputError, match="1 cell types are left"):
        pt.fit_prototypes(adata, types.where(types == "A"))


def test_genes_that_do_not_overlap_are_told_by_kind_and_example():
    symbols, ids = [f"CD{i}" for i in range(200)], [f"ENSG{i:011d}" for i in range(200)]
    with pytest.raises(InputError, match=r"0 of 200 genes.*symbols.*CD0.*ensembl.*ENSG00000000000"):
        pt.shared_genes(symbols, ids)
    assert pt.shared_genes(symbols, symbols[::-1]) == symbols


def test_quality_says_what_each_cut_leaves(rng):
    adata, _ = planted(rng)
    adata.var_names = [*adata.var_names[:-1], "MT-CO1"]
    counts = adata.layers[keys.COUNTS].tolil()
    counts[0, -1] = 10_000
    adata.layers[keys.COUNTS] = counts.tocsr()
    kept, steps = pt.quality(adata, genes=(10, 2500))
    assert steps["cells"].tolist()[:2] == [600, 599]
    assert kept.n_obs == steps["cells"].iloc[-1]
    with pytest.raises(InputError, match="no cell of 600 is left"):
        pt.quality(adata, genes=(5000, 6000))


def test_shares_and_sensitivity_of_mixtures_come_back(rng):
    profiles = np.exp(rng.normal(0, 1, (4, 300)))
    profiles /= profiles.sum(1, keepdims=True)
    shares = rng.dirichlet(np.ones(4), size=80)
    caught = np.exp(0.5 * rng.normal(size=300))
    counts = rng.poisson(20_000 * shares @ (profiles * caught))
    found = dc.deconvolve(counts, profiles, rounds=400)
    assert np.median(dc.type_correlations(shares, found.shares)) > 0.97
    assert np.corrcoef(np.log(found.sensitivity), np.log(caught))[0, 1] > 0.9
    given = dc.deconvolve(counts[:1], profiles, sensitivity=caught, rounds=400)
    assert given.shares[0] == pytest.approx(shares[0], abs=0.05)
    assert np.allclose(found.shares.sum(1), 1)


def test_updates_never_lower_the_likelihood(rng):
    profiles = np.exp(rng.normal(0, 1, (3, 100)))
    counts = rng.poisson(rng.dirichlet(np.ones(3), size=5) @ profiles * 30)

    def likelihood(rounds, theta):
        w = dc.deconvolve(counts, profiles, sensitivity=np.ones(100), rounds=rounds, theta=theta).shares
        mean = w @ profiles
        mean *= counts.sum(1, keepdims=True) / mean.sum(1, keepdims=True)
        return (counts * np.log(mean) - mean).sum()

    values = [likelihood(n, np.inf) for n in (1, 5, 50)]
    assert values == sorted(values)


@pytest.mark.parametrize("bad", ["shape", "negative", "zero profile", "nan"])
def test_deconvolution_refuses_what_it_cannot_take(bad):
    counts, profiles = np.ones((3, 10)), np.ones((2, 10))
    if bad == "shape":
        counts = counts[:, :5]
    elif bad == "zero profile":
        profiles[0, 0] = 0
    else:
        counts[0, 0] = -1 if bad == "negative" else np.nan
    with pytest.raises(InputError, match="need the same genes" if bad == "shape" else "raw counts and prototypes"):
        dc.deconvolve(counts, profiles)


def test_pseudobulk_holds_the_shares_it_says(rng):
    adata, _ = planted(rng, donor_sd=0.0)
    counts, shares = pt.pseudobulk(adata, pt.usable_types(adata), n=5, cells=50)
    assert counts.shape == (5, adata.n_vars)
    assert np.allclose(shares.sum(axis=1), 1)
    grouped, names = dc.regrouped(shares.to_numpy(), TYPES, lambda t: "AB" if t in "AB" else t)
    assert names == ["AB", "C"]
    assert np.allclose(grouped[:, 0], shares["A"] + shares["B"])
