"""Types transferred from a reference: right where it knows the type, unknown where in doubt, refused where unusable."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.type_transfer import transfer_types

GENES = [f"G{k}" for k in range(90)]


def cells(each, depth, seed, *, platform=0.0, types=("a", "b", "c"), genes=GENES):
    """Poisson counts of planted types, each with ten genes of its own, on a platform that sees genes unequally well."""
    rng = np.random.default_rng(seed)
    profile = np.random.default_rng(0).gamma(1.0, size=(3, len(GENES)))
    for k in range(3):
        profile[k, 10 * k : 10 * k + 10] *= 6
    profile *= np.exp(platform * np.random.default_rng(99).normal(size=len(GENES)))
    profile /= profile.sum(1, keepdims=True)
    kind = np.repeat([("a", "b", "c").index(t) for t in types], each)
    counts = rng.poisson(depth * profile[kind]).astype(np.float32)
    obs = pd.DataFrame(
        {keys.CELL_TYPE: np.array(["a", "b", "c"])[kind]}, index=[f"{seed}_{i}" for i in range(len(kind))]
    )
    table = AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))
    table.layers[keys.COUNTS] = counts
    return table[:, list(genes)].copy()


def test_types_cross_from_a_deep_reference_to_a_shallow_assay_of_another_platform():
    reference, assay = cells(80, 2000, 1), cells(80, 60, 2, platform=0.7)
    got = transfer_types(assay, reference)
    sure = (got.obs[keys.TRANSFERRED] != keys.UNKNOWN).to_numpy()
    assert sure.mean() > 0.8
    assert (got.obs[keys.TRANSFERRED].astype(str) == assay.obs[keys.CELL_TYPE])[sure].mean() > 0.95
    probability = got.obsm[keys.TYPE_PROBABILITY]
    assert list(probability) == ["a", "b", "c"]
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-4)
    assert keys.TRANSFERRED not in assay.obs


def test_doubt_and_few_counts_stay_unknown():
    reference, assay = cells(60, 500, 1), cells(60, 60, 2)
    assay.layers[keys.COUNTS][:5] = 0
    got = transfer_types(assay, reference)
    assert (got.obs[keys.TRANSFERRED].iloc[:5] == keys.UNKNOWN).all()
    shallow = cells(60, 12, 2)
    got, strict = (transfer_types(shallow, reference, min_counts=1, margin=m) for m in (0.2, 0.9))
    assert (strict.obs[keys.TRANSFERRED] == keys.UNKNOWN).sum() > (got.obs[keys.TRANSFERRED] == keys.UNKNOWN).sum()


def test_the_order_of_genes_does_not_matter_and_types_of_few_cells_are_left_out():
    assay, reference = cells(60, 60, 2), cells(60, 500, 1)
    turned = reference[:, GENES[::-1]].copy()
    same = transfer_types(assay, turned).obs[keys.TRANSFERRED]
    assert (same == transfer_types(assay, reference).obs[keys.TRANSFERRED]).mean() > 0.97
    few = reference[(reference.obs[keys.CELL_TYPE] != "c").to_numpy() | (np.arange(len(reference)) % 60 < 5)].copy()
    assert "c" not in transfer_types(assay, few).obs[keys.TRANSFERRED].cat.categories


def test_a_reference_that_cannot_teach_is_refused():
    assay = cells(60, 60, 2)
    with pytest.raises(InputError, match="at least 50"):
        transfer_types(assay, cells(60, 500, 1, genes=GENES[:30]))
    nameless = cells(60, 500, 1)
    del nameless.obs[keys.CELL_TYPE]
    with pytest.raises(InputError, match="lacks obs"):
        transfer_types(assay, nameless)
    with pytest.raises(InputError, match="at least 2"):
        transfer_types(assay, cells(60, 500, 1, types=("a",)))
