"""Slides with bags and bulk, and the dissociated reference: truth that adds up, and effects that zero turns off."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pytest

from stpath_core import tissue
from stpath_core.errors import InputError
from stpath_core.features import feature_names
from stpath_core.io import read_features
from stpath_core.tissue import dissociated, slides
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.broad import broad_profiles
from stpath_core.tissue.calibration import load_card
from stpath_core.tissue.cell_types import FINE_TYPES
from stpath_core.tissue.molecules import type_codes

OFF, ON = AssayEffects.none(), AssayEffects()
PIECE = {"donors": 2, "size_um": (300.0, 300.0)}


@pytest.fixture(scope="module")
def cohort():
    return tissue.slide_cohort(3, tiles=2, keep_tiles=True)


@pytest.fixture(scope="module")
def small():
    return grow("breast", size_um=(250, 250), seed=0, patient=4)


@pytest.fixture(scope="module")
def scrna():
    return tissue.reference()


def test_bags_and_bulk_are_of_the_same_slides(cohort):
    assert list(cohort.bags) == list(cohort.bulk.obs_names)
    assert cohort.bulk.shape == (3, 2000)
    assert cohort.bulk.layers["counts"].dtype == np.int32
    for bag in cohort.bags.values():
        assert bag.features.shape == (4, len(feature_names()))
        assert np.isfinite(bag.features).all()
        assert bag.coords.tolist() == [[0, 0], [224, 0], [0, 224], [224, 224]]
        assert bag.tiles.shape == (4, 224, 224, 3)
    np.testing.assert_allclose(cohort.bulk.obsm["composition"].sum(axis=1), 1, rtol=1e-5)
    assert cohort.bulk.obs["patient"].nunique() == 3


def test_one_seed_is_one_slide_bit_for_bit(cohort):
    again = tissue.slide_cohort(3, tiles=2, keep_tiles=True)
    assert (again.bulk.X != cohort.bulk.X).nnz == 0
    assert all(np.array_equal(again.bags[name].tiles, bag.tiles) for name, bag in cohort.bags.items())
    other = tissue.slide_cohort(1, tiles=1, seed=1)
    assert not set(other.bulk.obs["patient"]) & set(cohort.bulk.obs["patient"])


def test_bulk_sums_over_the_cells_of_the_slide(small):
    molecules, counts, composition, mrna = slides._bulk(small, effects=OFF, seed=1)
    n = np.bincount(type_codes(small), minlength=len(FINE_TYPES))
    expected = n @ broad_profiles("breast").to_numpy()
    np.testing.assert_allclose(molecules, expected, rtol=1e-3)
    np.testing.assert_allclose(composition.iloc[0], n / n.sum(), rtol=1e-5)
    np.testing.assert_allclose(mrna.iloc[0], composition.iloc[0], rtol=1e-5)
    wanted = 1e6 * expected / expected.sum()
    loud = wanted > 20
    assert ((counts - wanted) ** 2 / wanted)[loud].mean() == pytest.approx(1, abs=0.15)  # Poisson


@pytest.mark.parametrize("name", ["expression_batch", "class_batch", "batch_additive", "gene_sensitivity", "bulk_depth",
                                  "bulk_overdispersion", "mrna_content"])  # fmt: skip
def test_zero_turns_off_what_bulk_suffers_exactly(name, small):
    plain, alone, zero = (
        slides._bulk(small, effects=effects, seed=1)[1]
        for effects in (OFF, replace(OFF, **{name: getattr(ON, name)}), replace(OFF, **{name: 0.0}))
    )
    assert np.array_equal(plain, zero)
    assert not np.array_equal(plain, alone)


def test_everything_is_written_and_read_back(tmp_path, cohort):
    paths = tissue.write_assays(
        tmp_path / "assays", spots={"patients": 1, "rows": 2, "columns": 2},
        slides={"slides": 2, "tiles": 1, "keep_tiles": True}, scrna={"donors": 1, "size_um": (200.0, 200.0)},
    )  # fmt: skip
    assert {name: path.name for name, path in paths.items()} == {
        "spots": "spots.h5ad", "slides": "slides", "bulk": "bulk.h5ad", "scrna": "scrna.h5ad"}  # fmt: skip
    tables = {name: anndata.read_h5ad(path) for name, path in paths.items() if path.suffix == ".h5ad"}
    assert all("counts" in table.layers for table in tables.values())
    bags = {path.stem: tissue.read_bag(path) for path in sorted(paths["slides"].iterdir())}
    as_any = read_features(paths["slides"] / f"{next(iter(bags))}.h5")  # the reader of a user's own features
    assert (as_any.mpp, as_any.patch_px) == (0.5, 224)
    assert list(bags) == list(tables["bulk"].obs_names)
    assert bags["slide_0000"].tiles.shape == (1, 224, 224, 3)
    assert not list(tmp_path.rglob(".writing*"))


def test_the_reference_lacks_fat_and_what_it_is_told_to_lack(scrna):
    types = set(scrna.obs["cell_type"])
    assert "adipocyte" not in types
    assert scrna.uns["tissue_share"]["adipocyte"] > 0
    missing = scrna.uns["missing_types"].tolist()
    assert len(missing) == 1
    assert not types & set(missing)
    assert {"adipocyte", *missing} <= set(scrna.varm["prototypes"])  # the truth knows them all the same
    np.testing.assert_allclose(scrna.varm["prototypes"].sum(), 1, rtol=1e-6)
    assert scrna.obs["donor"].nunique() == 6
    assert scrna.obs.groupby("cell_type", observed=True)["cell_type_major"].nunique().max() == 1


def test_the_reference_counts_like_a_real_one(scrna):
    total = np.asarray(scrna.X.sum(1)).ravel()
    real = load_card()["assays"]["wu"]
    assert np.median(total) == pytest.approx(real["counts per cell"], rel=0.2)
    assert np.log(total).std() == pytest.approx(real["counts, SD of log"], abs=0.1)
    assert 1 - scrna.X.nnz / np.prod(scrna.shape) == pytest.approx(real["zero share"], abs=0.05)


def test_without_effects_every_cell_survives_and_follows_its_prototype():
    whole = tissue.reference(**PIECE, effects=OFF)
    share = whole.obs["cell_type"].value_counts(normalize=True)
    for name, wanted in whole.uns["tissue_share"].items():
        assert share[name] == pytest.approx(wanted)
    own = np.asarray(whole[whole.obs["cell_type"] == "carcinoma_invasive"].X.sum(0)).ravel()
    wanted = own.sum() * whole.varm["prototypes"]["carcinoma_invasive"].to_numpy()
    loud = wanted > 5
    assert ((own - wanted) ** 2 / wanted)[loud].mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", ["dissociation", "platform", "donor_batch", "reference_ambient", "reference_depth",
                                  "missing_types", "cell_variation", "overdispersion"])  # fmt: skip
def test_zero_turns_off_what_the_reference_suffers_exactly(name):
    piece = {"donors": 1, "size_um": (200.0, 200.0)}
    plain, alone, zero = (
        tissue.reference(**piece, effects=effects).X
        for effects in (OFF, replace(OFF, **{name: getattr(ON, name)}), replace(OFF, **{name: 0.0}))
    )
    assert (plain != zero).nnz == 0
    assert plain.shape != alone.shape or (plain != alone).nnz


def test_dissociation_prefers_lymphocytes():
    biased, fair = (tissue.reference(**PIECE, effects=replace(OFF, dissociation=d)).obs for d in (1.0, 0.0))
    lymphocytes = [(obs["cell_type_major"] == "T cells").mean() for obs in (biased, fair)]
    assert lymphocytes[0] > 1.3 * lymphocytes[1]


def test_what_makes_no_reference_is_refused():
    with pytest.raises(InputError, match="missing_types=9"):
        tissue.reference(effects=replace(ON, missing_types=9.0))
    with pytest.raises(InputError, match="liver"):
        tissue.reference(organ="liver")
    with pytest.raises(InputError, match="slides=0"):
        tissue.slide_cohort(0)


def test_types_have_a_survival_and_a_coarse_name():
    assert set(dissociated.SURVIVAL) == set(dissociated.MAJOR_TYPES) == set(FINE_TYPES)


def test_bulk_without_images_is_the_same_bulk():
    with_images = tissue.slide_cohort(2, tiles=1, seed=4)
    alone = tissue.slide_cohort(2, tiles=1, seed=4, images=False)
    assert alone.bags == {}
    assert (with_images.bulk.X != alone.bulk.X).nnz == 0
    assert np.array_equal(with_images.bulk.obsm["composition"], alone.bulk.obsm["composition"])
