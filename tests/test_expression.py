"""What virtual cells express: planted profiles, raw counts, and effects that zero turns off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stpath_core.errors import InputError
from stpath_core.tissue import Effects, genes
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.cell_types import FINE_TYPES
from stpath_core.tissue.expression import cell_means, counts, patient_batch, profiles
from virtual_bundle import section


@pytest.fixture(scope="module")
def arch():
    return section().arch


def test_profiles_are_distributions_over_real_symbols():
    table = profiles("colon")
    assert table.shape == (len(FINE_TYPES), len(genes.universe()))
    assert len(genes.panel()) >= 300
    assert (table.to_numpy() > 0).all()
    np.testing.assert_allclose(table.sum(axis=1), 1)
    assert {"EPCAM", "PTPRC", "COL1A1", "CD8A", "MKI67"} <= set(genes.panel()) < set(genes.universe())
    assert table.loc["t_cd8", "CD8A"] > 5 * table.loc["colonocyte", "CD8A"]
    organ = genes.PROGRAMMES["organ_colon"].split()
    assert table.loc["colonocyte", organ].sum() > 1.5 * profiles("breast").loc["colonocyte", organ].sum()


def test_without_effects_a_cell_expresses_its_type(arch):
    means = cell_means(arch, effects=Effects.none(), seed=0)
    expected = profiles(arch.organ).loc[arch.cells["cell_type"].astype(str)]
    np.testing.assert_allclose(means, expected, rtol=1e-4)


def test_counts_are_raw_overdispersed_integers_of_the_calibrated_depth(arch):
    means = cell_means(arch, effects=Effects(), seed=0)
    raw = counts(arch, means, effects=replace(Effects(), section_depth=0), seed=0)
    assert raw.dtype.kind == "i"
    assert raw.data.min() > 0
    assert raw.shape == (len(arch.cells), len(genes.panel()))
    depth = np.asarray(raw.sum(1)).ravel()
    assert 54 < np.median(depth) < 70  # 64 once the assay has added what leaks in
    low, high = np.percentile(depth, [5, 95])
    assert low < 25
    assert high > 200
    assert 0.85 < 1 - raw.nnz / np.prod(raw.shape) < 0.93  # there .905


def test_overdispersion_is_what_was_asked_for(arch):
    flat = replace(Effects.none(), overdispersion=0.6)
    means = np.tile(profiles().loc[["fibroblast"]].to_numpy(np.float32), (len(arch.cells), 1))
    arch = replace(arch, cells=arch.cells.assign(cell_type="fibroblast"))
    raw = counts(arch, means, effects=flat, seed=1, median_counts=3000).toarray().astype(float)
    mean = raw.mean(0)
    estimate = ((raw.var(0) - mean) / mean**2)[mean > 5]
    assert abs(np.median(estimate) - 0.6) < 0.1
    poisson = counts(arch, means, effects=Effects.none(), seed=1, median_counts=3000).toarray()
    assert abs(np.median(poisson.var(0)[mean > 5] / poisson.mean(0)[mean > 5]) - 1) < 0.15


def test_a_batch_belongs_to_the_patient():
    factor, added = patient_batch("lung", 0, effects=Effects())
    again, _ = patient_batch("lung", 0, effects=Effects())
    other, _ = patient_batch("lung", 1, effects=Effects())
    assert np.array_equal(factor, again)
    assert not np.allclose(factor, other)
    assert abs(np.log(factor).std() - Effects().expression_batch) < 0.05
    assert abs(added.sum() - 1) < 1e-9
    assert np.all(patient_batch("lung", 0, effects=Effects.none())[0] == 1)


def test_the_hidden_niche_moves_genes_that_no_type_explains():
    arch = grow("colon", size_um=(300, 300), seed=0)
    kind = (arch.cells["super_class"] == "connective").to_numpy()
    gene = genes.universe().index("FOS")  # of the stress programme, which runs on a hidden field
    quiet, hidden = (
        cell_means(arch, effects=replace(Effects.none(), niche_hidden=s), seed=0)[kind, gene] for s in (0, 0.5)
    )
    within = pd.Series(np.log(quiet)).groupby(arch.cells["cell_type"].astype(str).to_numpy()[kind]).std().fillna(0)
    assert within.max() < 1e-3
    assert np.log(hidden / quiet).std() > 0.1


def test_a_panel_gene_that_does_not_exist_is_refused(arch):
    means = cell_means(arch, effects=Effects.none(), seed=0)
    with pytest.raises(InputError, match="NOTAGENE"):
        counts(arch, means, effects=Effects.none(), seed=0, genes=["EPCAM", "NOTAGENE"])


@pytest.mark.parametrize("wrong", [{"leakage": -0.1}, {"ambient": 2.0}, {"warp_um": float("nan")}])
def test_strengths_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Effects(**wrong)
