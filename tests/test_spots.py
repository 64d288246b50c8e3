"""The spot assay: sums over the cells under a spot, effects that zero turns off exactly, and the calibration card."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stpath_core import io, tissue
from stpath_core.errors import InputError
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.assay_card import LIMITS, Spots, mixing, spot_card
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.batch import gene_batch
from stpath_core.tissue.broad import broad_genes, broad_profiles
from stpath_core.tissue.calibration import load_card
from stpath_core.tissue.cell_types import FINE_TYPES
from stpath_core.tissue.mixtures import region_shares
from stpath_core.tissue.molecules import mrna_content
from stpath_core.tissue.spots import catch, measure_spots, region_share, section_size, spot_array

OFF, ON = AssayEffects.none(), AssayEffects()
XY_UM, ARRAY = spot_array(7, 7, pitch_um=112.0)


@pytest.fixture(scope="module")
def arch():
    return grow("breast", size_um=section_size(7, 7, pitch_um=112.0), seed=0, patient=3, territory_um=200.0)


@pytest.fixture(scope="module")
def measured(arch):
    """Measure the section with some effects, each only once."""

    @cache
    def run(effects: AssayEffects, seed: int = 5):
        return measure_spots(arch, XY_UM, ARRAY, effects=effects, seed=seed)

    return run


@pytest.fixture(scope="module")
def cohort():
    """The default cohort: eight patients."""
    return tissue.spot_cohort(workers=2)


def words(adata, name):
    return adata.obs[name].to_numpy(str)


def test_calibration_card_holds_at_the_defaults(cohort):
    counts = cohort.layers["counts"].toarray()
    spots = Spots(counts, *(words(cohort, name) for name in ("patient", "section", "label")), cohort.obsm["spatial"])
    card = spot_card(spots)
    for name, (low, high) in LIMITS.items():
        assert low <= card[name] <= high, f"{name} is {card[name]:.3f}, outside {low} to {high}"
    real = load_card()["assays"]["her2st"]
    assert card["zero share"] == pytest.approx(real["zero share"], abs=0.05)
    assert card["overdispersion"] == pytest.approx(real["overdispersion"], abs=0.04)
    assert card["variance between patients"] == pytest.approx(real["variance between patients"], abs=0.05)
    assert card["neighbours alike"] == pytest.approx(real["neighbours alike"], abs=0.04)
    assert card == pytest.approx(load_card()["assays"]["spots"]["seeds"]["0"], abs=0.02, rel=0.02)


def test_written_card_is_of_the_frozen_strengths_and_within_its_limits_over_three_seeds():
    card = load_card()["assays"]
    assert card["strengths"] == ON.as_dict()  # a changed default needs the card written again, beside the real data
    assert card["limits"] == {name: list(limits) for name, limits in LIMITS.items()}
    assert set(card["spots"]["seeds"]) == {"0", "1", "2"}
    for name, (low, high) in LIMITS.items():
        assert low <= card["spots"][name] <= high, name
        if name != "mixing":
            assert low <= card["her2st"][name] <= high, name
    assert card["spots"]["mixing"] < 0.02
    assert card["her2st"]["mixing"] < 0.02
    assert card["cells"]["median counts"] == pytest.approx(card["merfish"]["median counts"], rel=0.2)
    assert card["cells"]["neighbours alike"] == pytest.approx(card["merfish"]["neighbours alike"], abs=0.06)


@pytest.mark.real
def test_the_card_holds_what_her2st_shows(real_data):
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from calibrate_assays import her2st

    written = load_card()["assays"]["her2st"]
    assert spot_card(her2st(real_data / "her2st")) == pytest.approx(written, abs=0.01, rel=0.01)


def test_virtual_spots_say_their_frame_as_real_ones_do(cohort):
    assert io.frame_of(cohort).unit == "um"
    np.testing.assert_array_equal(io.positions_um(cohort), cohort.obsm["spatial"])


def test_cohort_holds_what_it_says(cohort):
    assert cohort.shape == (8 * 17 * 17, 2000)
    assert tuple(cohort.var_names) == broad_genes()
    assert cohort.obs["patient"].nunique() == 8
    assert cohort.layers["counts"].dtype == np.int32
    assert cohort.layers["counts"].data.min() > 0
    np.testing.assert_allclose(cohort.layers["expected"].sum(1)[cohort.obs["n_cells"] > 0], 1e4, rtol=1e-4)
    for key in ("composition", "mrna_share"):
        sums = cohort.obsm[key].to_numpy().sum(1)
        np.testing.assert_allclose(sums[cohort.obs["n_cells"] > 0], 1, rtol=1e-5)
        assert list(cohort.obsm[key]) == list(FINE_TYPES)
    present = cohort.obs[cohort.obs["label"] != "undetermined"].groupby("patient", observed=True)["label"].nunique()
    assert present.min() < 6  # classes are absent from some patients
    assert set(cohort.uns["spatial"]) == set(words(cohort, "section"))
    wrong = words(cohort, "label") != words(cohort, "true_label")
    assert 0.01 < wrong[words(cohort, "label") != "undetermined"].mean() < 0.1


def test_one_seed_is_one_cohort_bit_for_bit_and_another_brings_other_people():
    small = {"patients": 2, "rows": 3, "columns": 3}
    one, again, other = (tissue.spot_cohort(**small, seed=seed) for seed in (4, 4, 5))
    for table in ("counts", "expected"):
        a, b = (np.asarray(x.to_df(table)) for x in (one, again))
        assert np.array_equal(a, b)
    assert not set(one.obs["patient"]) & set(other.obs["patient"])


def test_a_spot_sums_over_the_cells_under_it(arch, measured):
    """Against a loop over cells, with the planted profile of their type."""
    got = measured(replace(OFF, mrna_content=1.0))
    code, xy = arch.cells.cell_type.cat.codes.to_numpy(), arch.cells[["x_um", "y_um"]].to_numpy()
    profile, content = broad_profiles("breast").to_numpy(), mrna_content(1.0)
    for spot in (0, 17, 40):
        under = [i for i in range(len(xy)) if np.hypot(*(xy[i] - XY_UM[spot])) <= 50]
        assert got.n_cells[spot] == len(under)
        share = np.bincount(code[under], minlength=22) / len(under)
        np.testing.assert_allclose(got.composition.iloc[spot], share, rtol=1e-5)
        total = sum(content[code[i]] * profile[code[i]] for i in under)
        np.testing.assert_allclose(got.molecules[spot], total, rtol=1e-3)
        held = np.bincount(code[under], content[code[under]], minlength=22)
        np.testing.assert_allclose(got.mrna.iloc[spot], held / held.sum(), rtol=1e-5)


def test_without_effects_counts_are_poisson_of_what_the_cells_hold(measured):
    got = measured(OFF)
    expected = got.molecules * (2000.0 / np.median(got.molecules.sum(1)))
    counts = got.counts.toarray()
    loud = expected > 1
    assert ((counts - expected) ** 2 / expected)[loud].mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(got.composition.to_numpy(), got.mrna.to_numpy(), rtol=1e-5)  # equal content


CAUGHT = ("gene_sensitivity", "expression_batch", "section_batch", "class_batch", "batch_additive", "diffusion",
          "ambient")  # fmt: skip


@pytest.mark.parametrize("name", CAUGHT)
def test_zero_turns_off_what_stands_between_cells_and_spots_exactly(name, arch, measured):
    molecules = measured(OFF).molecules
    region = region_share(arch, XY_UM, spot_um=100.0).argmax(1)

    def caught(effects):
        batch = gene_batch("breast", 3, effects=effects)
        return catch(molecules, XY_UM, region, batch=batch, effects=effects)

    assert np.array_equal(caught(OFF), molecules)
    alone = replace(OFF, **{name: getattr(ON, name), "diffusion_um": ON.diffusion_um})
    assert not np.allclose(caught(alone), molecules, rtol=1e-3)
    assert np.array_equal(caught(replace(alone, **{name: 0.0})), molecules)


@pytest.mark.parametrize("name", ["section_depth", "spot_depth", "overdispersion", "dropout", "niche_visible",
                                  "niche_hidden", "cell_variation", "mrna_content"])  # fmt: skip
def test_zero_turns_off_depth_noise_and_state_exactly(name, measured):
    alone = measured(replace(OFF, **{name: getattr(ON, name)}))
    assert (alone.counts != measured(OFF).counts).nnz
    assert (measured(replace(OFF, **{name: 0.0})).counts != measured(OFF).counts).nnz == 0


def test_diffusion_moves_molecules_and_loses_none(arch, measured):
    molecules = measured(OFF).molecules
    region, batch = np.zeros(len(XY_UM), int), gene_batch("breast", 3, effects=OFF)
    one = np.where(np.arange(len(XY_UM))[:, None] == 24, molecules, 0)  # the middle spot alone
    spread = catch(one, XY_UM, region, batch=batch, effects=replace(OFF, diffusion=0.4, diffusion_um=60.0))
    assert spread.sum() == pytest.approx(one.sum(), rel=1e-4)
    assert spread[24].sum() == pytest.approx(0.6 * one.sum(), rel=1e-4)
    by_distance = spread.sum(1)[np.argsort(np.hypot(*(XY_UM - XY_UM[24]).T))]
    assert by_distance[1] > by_distance[5] > by_distance[10] > 0


def test_dropout_and_depth_have_the_strength_asked_for(measured):
    plain, holed = (measured(replace(OFF, dropout=d), 9).counts for d in (0.0, 0.3))
    assert holed.nnz / plain.nnz == pytest.approx(0.7, abs=0.02)
    totals = [np.median(measured(replace(OFF, section_depth=0.75), seed).counts.sum(1)) for seed in range(12)]
    assert 0.4 < np.log(totals).std(ddof=1) < 1.2


def test_annotators_err_at_borders_only_and_zero_makes_them_perfect(arch, measured):
    perfect = measured(replace(ON, label_border_um=0.0, undetermined=0.0))
    assert np.array_equal(perfect.label, perfect.true_label)
    humans = [measured(replace(ON, label_border_um=20.0, undetermined=0.0), seed) for seed in range(8)]
    pure = region_share(arch, XY_UM, spot_um=100.0).max(1)
    wrong = np.concatenate([human.label != human.true_label for human in humans])
    assert 0 < wrong.mean() < 0.2
    eight = np.tile(pure, 8)
    assert eight[wrong].mean() < eight[~wrong].mean() - 0.1
    unsure = measured(replace(ON, undetermined=0.2))
    assert (unsure.label == "undetermined").sum() == round(0.2 * 49)
    assert pure[unsure.label == "undetermined"].mean() < pure[unsure.label != "undetermined"].mean()


def test_batches_belong_to_patients_sections_and_classes():
    only = replace(OFF, expression_batch=0.5)
    first, second = (gene_batch("breast", 1, section=s, effects=only).factor for s in (0, 1))
    assert np.array_equal(first, second)
    assert np.log(first).std() == pytest.approx(0.5, abs=0.03)
    sections = [gene_batch("breast", 1, section=s, effects=replace(OFF, section_batch=0.2)).factor for s in (0, 1)]
    assert abs(np.corrcoef(np.log(sections))[0, 1]) < 0.1
    assert np.all(gene_batch("breast", 1, effects=OFF).by_region == 1)
    by_region = gene_batch("breast", 1, effects=replace(OFF, class_batch=0.3)).by_region
    assert np.log(by_region).std() == pytest.approx(0.3, abs=0.02)


def test_a_shared_batch_can_be_read_off_the_stain():
    """With stain_shared 1 the batches of many patients span no more directions than their stains; with 0 they do."""
    rank = {}
    for shared in (0.0, 1.0):
        effects = replace(OFF, expression_batch=0.5, stain_shared=shared)
        logs = np.log([gene_batch("breast", p, effects=effects).factor for p in range(12)])
        rank[shared] = np.linalg.matrix_rank(logs, tol=1e-6)
    assert rank == {0.0: 12, 1.0: 4}


def test_composition_absence_and_confounding_have_their_zero_and_their_end():
    fixed = region_shares("breast", 8, seed=0, effects=OFF)
    assert all(row == fixed[0] for row in fixed)
    assert min(fixed[0].values()) > 0
    spread = [region_shares("breast", 8, seed=0, effects=replace(OFF, composition=c)) for c in (0.5, 1.0)]
    low, high = (np.std([row["invasive"] for row in rows]) for rows in spread)
    assert 0 < low < high
    holes = region_shares("breast", 8, seed=0, effects=replace(OFF, absent=1.0))
    assert sum(row["in_situ"] == 0 for row in holes) == 5  # as in HER2ST
    assert all(sum(row[name] > 0 for row in holes) >= 2 for name in holes[0])
    alone = region_shares("breast", 8, seed=0, effects=replace(ON, confounding=1.0))
    assert all(max(row.values()) == 1 for row in alone)
    for row in [*fixed, *holes, *alone]:
        assert sum(row.values()) == pytest.approx(1)


def test_an_absent_class_is_not_in_the_tissue():
    shares = {"invasive": 0.6, "in_situ": 0.0, "connective": 0.4, "adipose": 0.0, "immune": 0.0, "gland": 0.0}
    cells = grow("breast", size_um=(400, 400), seed=1, mixture=shares).cells
    assert set(cells.region.astype(str)) <= {"invasive", "connective", "background"}
    assert not cells.cell_type.isin(["adipocyte", "luminal_epithelial", "carcinoma_in_situ"]).any()


def test_the_picture_is_grown_again_from_the_recipe(tmp_path):
    import anndata

    made = tissue.spot_cohort(1, rows=2, columns=3, mpp=1.0)
    made.write_h5ad(tmp_path / "spots.h5ad")
    again = anndata.read_h5ad(tmp_path / "spots.h5ad")
    library = again.uns["spatial"]["breast_p0_s0"]
    assert np.array_equal(tissue.spot_image(again, "breast_p0_s0", mpp=1.0), library["images"]["hires"])
    assert library["images"]["hires"].shape == (224, 336, 3)
    at_px = again.obsm["spatial"] * library["scalefactors"]["tissue_hires_scalef"]
    assert at_px.max(0).tolist() == [280, 168]
    with pytest.raises(InputError, match="breast_p9"):
        tissue.spot_image(again, "breast_p9_s0")


def test_a_staggered_array_is_visiums():
    xy, array = spot_array(6, 5, pitch_um=100.0, staggered=True)
    near = cKDTree(xy).query(xy, k=2)[0][:, 1]
    np.testing.assert_allclose(near, 100.0)
    width, height = section_size(6, 5, pitch_um=100.0, staggered=True)
    assert (xy.min(0) >= 50).all()
    assert (xy + 50 <= [width, height]).all()
    assert len(array) == 30


def test_mixing_is_zero_for_islands_and_near_chance_for_noise():
    patient = np.repeat(["a", "b"], 100)
    noise = np.random.default_rng(0).normal(size=(200, 5))
    assert mixing(noise, patient) == pytest.approx(0.5, abs=0.05)
    assert mixing(noise + 100 * (patient == "a")[:, None], patient) == 0


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [({"organ": "liver"}, "liver"), ({"patients": 0}, "patients=0"), ({"rows": 1}, "rows=1"),
     ({"spot_um": 130.0, "rows": 2, "columns": 2, "patients": 1}, "overlap")],
)  # fmt: skip
def test_what_makes_no_cohort_is_refused(wrong, hint):
    with pytest.raises(InputError, match=hint):
        tissue.spot_cohort(**wrong)


@pytest.mark.parametrize("wrong", [{"confounding": 1.2}, {"dropout": -0.1}, {"missing_types": 1.5}, {"diffusion": 2.0}])
def test_strengths_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        AssayEffects(**wrong)
