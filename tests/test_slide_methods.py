"""Methods on bags: padding is not seen, planted mixtures are found, broken pairs teach nothing, bad bags stop."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from stpath_core import expression, keys, slide_methods
from stpath_core.errors import InputError
from stpath_core.models import slide_networks as networks

TRAINING = {"steps": 150, "widths": (32, 16)}
TYPES, GENES, SLIDES = 3, 120, 48


@pytest.fixture(scope="module")
def planted():
    """Slides whose patches each show one of three types; bulk is the mixture of the types' profiles."""
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.5, 2, (TYPES, GENES)) + 0.05
    shares = rng.dirichlet(np.ones(TYPES), SLIDES)
    looks = rng.normal(size=(TYPES, 8))
    bags = []
    for row in shares:
        kind = rng.choice(TYPES, size=rng.integers(20, 40), p=row)
        bags.append(looks[kind] + 0.3 * rng.normal(size=(len(kind), 8)))
    shown = np.array([np.bincount((b @ looks.T).argmax(1), minlength=TYPES) / len(b) for b in bags])
    mean = shown @ (profiles / profiles.sum(1, keepdims=True))
    counts = rng.poisson(2e4 * mean)
    names = [f"slide{k}" for k in range(SLIDES)]
    obs = pd.DataFrame({keys.PATIENT: [f"p{k}" for k in range(SLIDES)]}, index=names)
    bulk = anndata.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"G{k}" for k in range(GENES)]))
    bulk.layers[keys.COUNTS] = bulk.X.copy()
    table = pd.DataFrame(profiles, index=list("abc"), columns=bulk.var_names)
    return bags, bulk, table, shown


@pytest.fixture(scope="module")
def fold(planted):
    bags, bulk, profiles, _ = planted
    return slide_methods.make_fold(bags, bulk, profiles, np.arange(SLIDES) % 3 == 0, n_genes=60)


def scc(fold, pred):
    return expression.score_slides(fold.test.target, {"m": pred}, n=2).mean("m")


def test_what_is_padded_is_not_seen():
    torch.manual_seed(0)
    bags = [np.random.default_rng(k).normal(size=(n, 6)).astype(np.float32) for k, n in enumerate((3, 9))]
    x, mask = networks.padded(bags)
    assert mask.sum(1).tolist() == [3, 9]
    for model in (networks.GatedAttention(6, 4), networks.NoPrototypeBags(6, torch.ones(4), widths=(8, 8))):
        together = model.eval()(x, mask)
        alone = torch.stack([model(*networks.padded([bag]))[0] for bag in bags])
        torch.testing.assert_close(together, alone)
        noisy = torch.where(mask[..., None] > 0, x, torch.full_like(x, 1e3))
        torch.testing.assert_close(model(noisy, mask), together)
    weight = networks.GatedAttention(6, 4).attention(x, mask)[1]
    assert weight[0, 3:].abs().max() == 0
    torch.testing.assert_close(weight.sum(1), torch.ones(2))


def test_planted_mixtures_are_found_by_all_methods_and_by_their_weights(planted, fold):
    truth = planted[3]
    model = slide_methods.train_cpnn(fold, **TRAINING)
    weights, pred = slide_methods.cpnn_answer(model, fold.test)
    test = np.arange(SLIDES) % 3 == 0
    for k in range(TYPES):
        assert np.corrcoef(weights[:, k], truth[test, k])[0, 1] > 0.8
    assert scc(fold, pred) > 0.5
    assert scc(fold, slide_methods.ridge(fold)) > 0.5
    assert scc(fold, slide_methods.no_prototypes(fold, **TRAINING)) > 0.4
    assert scc(fold, slide_methods.attention(fold, steps=150)) > 0.4
    added, stacked = slide_methods.beyond(fold, model, **TRAINING)
    assert scc(fold, added) > scc(fold, pred) - 0.03
    assert stacked.inner[2] >= max(stacked.inner[:2]) - 0.02


def test_the_step_beyond_works_with_as_few_slides_as_have_a_held_out_patient(planted):
    bags, bulk, profiles, _ = planted
    few = np.arange(SLIDES) < 2
    fold = slide_methods.make_fold(bags, bulk, profiles, np.arange(SLIDES) > 30, n_genes=60, train=few)
    model = slide_methods.train_cpnn(fold, steps=3, widths=(8, 8))
    added, stacked = slide_methods.beyond(fold, model, steps=3, widths=(8, 8))
    assert np.isfinite(added).all()
    assert any(stacked.shares)


def test_a_constant_has_no_score_and_broken_pairs_teach_nothing(fold):
    assert np.isnan(scc(fold, slide_methods.mean(fold)))
    control = [scc(fold, slide_methods.shuffled_cpnn(fold, draw=k, **TRAINING)) for k in range(4)]
    assert abs(np.mean(control)) < 0.35  # sixteen test slides, three types: wide, and far from .5 and more
    assert np.mean(control) < scc(fold, slide_methods.ridge(fold)) - 0.2


def test_the_test_side_reaches_no_training_number(planted, fold):
    bags, bulk, profiles, _ = planted
    other = bulk.copy()
    test = np.arange(SLIDES) % 3 == 0
    counts = other.layers[keys.COUNTS].toarray()
    counts[test] = counts[test][::-1] * 3
    other.layers[keys.COUNTS] = csr_matrix(counts)
    spoiled = [b * 9 if held else b for b, held in zip(bags, test, strict=True)]
    again = slide_methods.make_fold(spoiled, other, profiles, test, n_genes=60)
    assert np.array_equal(again.columns, fold.columns)
    np.testing.assert_array_equal(again.profiles, fold.profiles)
    np.testing.assert_array_equal(again.train.mean, fold.train.mean)
    assert not fold.test.shares.any()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda b, t: b.__setitem__(3, b[3][:0]), "slide slide3 has a bag of shape"),
        (lambda b, t: b.__setitem__(3, b[3][:, :5]), "slide slide3 has features of width 5"),
        (lambda b, t: b[3].__setitem__((0, 0), np.nan), "slide slide3 has 1 of"),
        (lambda b, t: b.pop(), "47 bags for 48 rows"),
        (lambda b, t: t.layers.__setitem__(keys.COUNTS, t.layers[keys.COUNTS] * 0.3), "not whole"),
        (lambda b, t: t.obs.__setitem__(keys.PATIENT, "p0"), "in train and in test"),
        (lambda b, t: setattr(t, "var_names", [f"ENSG{k:011d}" for k in range(GENES)]), "0 of 120 genes"),
    ],
)
def test_bad_bags_and_tables_are_refused(planted, spoil, said):
    bags, bulk, profiles = [b.copy() for b in planted[0]], planted[1].copy(), planted[2]
    spoil(bags, bulk)
    with pytest.raises(InputError, match=said):
        slide_methods.make_fold(bags, bulk, profiles, np.arange(SLIDES) % 3 == 0, n_genes=60)


def test_a_slide_of_one_patch_is_a_slide(planted):
    bags, bulk, profiles, _ = planted
    single = [b[:1] if k % 2 else b for k, b in enumerate(bags)]
    fold = slide_methods.make_fold(single, bulk, profiles, np.arange(SLIDES) % 3 == 0, n_genes=60)
    model = slide_methods.train_cpnn(fold, steps=3, widths=(8, 8))
    assert np.isfinite(slide_methods.cpnn_answer(model, fold.test)[1]).all()
