"""Patches of spots, their features, neighbours, and the folds made of them: micrometres, sections and patients kept."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from stpath_core import io, keys, spot_cohorts, spot_methods, spots
from stpath_core.errors import InputError
from stpath_core.io.features import Features, write_features


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_patches_lie_where_the_spots_are_and_end_in_white():
    image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    patches = spots.cut_patches(image, [(20, 10), (1, 39)], patch_px=8)
    assert np.array_equal(patches[0], image[6:14, 16:24])
    assert np.array_equal(patches[1][:5, 3:], image[35:40, 0:5])
    assert (patches[1][5:] == 255).all()
    assert (patches[1][:, :3] == 255).all()


def test_a_spot_outside_the_image_is_refused():
    with pytest.raises(InputError, match=r"1 of 2 spots lie outside the image of 60 x 40 px.*x and y swapped"):
        spots.cut_patches(np.zeros((40, 60, 3), np.uint8), [(50, 20), (20, 50)], patch_px=8)


def test_features_depend_on_micrometres_not_on_pixels(rng):
    fine = rng.integers(60, 200, (400, 400, 3)).astype(np.uint8)
    seen = []

    def encode(tiles):
        seen.append(tiles.shape)
        return tiles.mean((1, 2))

    found = spots.section_features(fine, [(100.0, 100.0)], mpp=0.5, patch_um=40, encode=encode)
    assert seen == [(1, 80, 80, 3)]
    assert found.centres_um()[0] == pytest.approx([100, 100])
    assert found.features[0] == pytest.approx(fine[160:240, 160:240].mean((0, 1)), abs=1e-3)
    with pytest.raises(InputError, match="at least 32 are needed"):
        spots.section_features(fine, [(100.0, 100.0)], mpp=3.0, patch_um=40)


def test_kept_features_are_read_back_and_matched_by_place(tmp_path, rng):
    xy = np.array([(100.0, 100.0), (212.0, 100.0), (324.0, 100.0)])
    made = []

    def compute():
        made.append(1)
        coords = spots.patch_corners(xy / 0.5, patch_px=224)
        return Features(features=np.eye(3, dtype=np.float32), coords=coords, patch_px=224, mpp=0.5)

    for _ in range(2):
        found = spots.kept_features(tmp_path / "a" / "s.h5", compute)
    assert len(made) == 1
    order = [2, 0, 1]
    assert np.array_equal(spots.features_of_spots(found, xy[order] + 3), np.eye(3)[order])
    with pytest.raises(InputError, match="1 of 1 spots have no patch within"):
        spots.features_of_spots(found, [(324.0, 900.0)])


def test_another_encoders_features_drop_in_by_section(tmp_path):
    adata = cohort(np.random.default_rng(0), patients=2)
    for name in ("s0", "s1"):
        xy = adata.obsm["spatial"][(adata.obs.section == name).to_numpy()]
        values = np.full((len(xy), 7), float(name[1]), np.float32) + np.arange(len(xy))[:, None]
        coords = spots.patch_corners(xy, patch_px=112)
        write_features(tmp_path / f"{name}.h5", values, coords, patch_px=112, mpp=1.0, encoder="mine")
    out = spot_cohorts.use_features(adata, tmp_path)
    assert out.obsm["features"].shape == (adata.n_obs, 7)
    assert out.obsm["features"][adata.n_obs // 2, 0] == 1
    (tmp_path / "s1.h5").unlink()
    with pytest.raises(InputError, match=r"holds no s1\.h5"):
        spot_cohorts.use_features(adata, tmp_path)


def test_three_numbers_are_the_mean_optical_densities():
    image = np.full((64, 64, 3), (255, 127, 63), np.uint8)
    found = spots.density_features(image, [(32, 32)], mpp=1.0, patch_um=32)[0]
    assert found == pytest.approx([0, np.log10(256 / 128), np.log10(256 / 64)], abs=1e-4)


def grid(side: int) -> np.ndarray:
    return 112.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 112


def test_neighbours_are_those_of_the_section_without_the_spot_itself():
    xy, section = np.r_[grid(3), grid(3)], np.repeat(["a", "b"], 9)
    values = np.arange(18.0)[:, None]
    found = spots.neighbour_mean(values, xy, section)
    assert found[4, 0] == pytest.approx(np.delete(np.arange(9), 4).mean())
    assert found[9 + 0, 0] == pytest.approx(np.mean([10, 12, 13]))


def test_smoothing_keeps_constants_and_stays_in_the_section():
    xy, section = np.r_[grid(4), grid(4)], np.repeat(["a", "b"], 16)
    values = np.r_[np.zeros(16), np.ones(16)][:, None]
    assert np.allclose(spots.smoothed(values, xy, section, pitches=1.0), values)
    assert np.array_equal(spots.smoothed(values, xy, section, pitches=0), values)


def test_centring_removes_what_a_section_adds(rng):
    values, section = rng.normal(size=(20, 3)), np.repeat(["a", "b"], 10)
    moved = values + (section == "b")[:, None] * 100
    assert np.allclose(spots.centred(values, section), spots.centred(moved, section), atol=1e-4)


def cohort(rng, *, patients: int = 4, side: int = 6, genes: int = 60) -> anndata.AnnData:
    """Two types whose share a feature shows; the types' profiles differ."""
    n = patients * side**2
    share = np.concatenate([smooth(rng, side) for _ in range(patients)])
    profiles = np.exp(rng.normal(size=(2, genes)))
    profiles /= profiles.sum(1, keepdims=True)
    mean = 3000 * (share[:, None] * profiles[0] + (1 - share)[:, None] * profiles[1])
    adata = anndata.AnnData(csr_matrix(rng.poisson(mean)), var=pd.DataFrame(index=[f"GENE{i}" for i in range(genes)]))
    adata.obs_names = [f"x{i}" for i in range(n)]
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs["patient"] = np.repeat([f"p{k}" for k in range(patients)], side**2)
    adata.obs["section"] = np.repeat([f"s{k}" for k in range(patients)], side**2)
    adata.obsm["spatial"] = np.tile(grid(side), (patients, 1))
    adata.obsm["features"] = np.c_[share, 5 * share, rng.normal(size=(n, 6))].astype(np.float32)
    adata.obsm["density"] = np.c_[share, rng.normal(size=(n, 2))].astype(np.float32)
    adata.uns["profiles"] = pd.DataFrame(profiles * 1000, index=["A", "B"], columns=adata.var_names)
    adata.obsm["composition"] = pd.DataFrame({"A": share, "B": 1 - share}, index=adata.obs_names)
    return adata


def smooth(rng, side: int) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    return (0.5 + 0.4 * np.sin(4 * x + 5 * y + rng.uniform(0, 6))).ravel()


def test_a_fold_learns_nothing_from_the_patients_it_holds_out(rng):
    adata = cohort(rng)
    test = (adata.obs.patient == "p3").to_numpy()
    fold = spot_methods.make_fold(adata, adata.uns["profiles"], test, n_genes=20)
    changed = adata.copy()
    counts = changed.layers[keys.COUNTS].tolil()
    counts[np.flatnonzero(test)] = rng.poisson(50, (test.sum(), adata.n_vars))
    changed.layers[keys.COUNTS] = counts.tocsr()
    again = spot_methods.make_fold(changed, adata.uns["profiles"], test, n_genes=20)
    assert np.array_equal(fold.columns, again.columns)
    assert np.array_equal(fold.profiles, again.profiles)
    assert np.array_equal(fold.train.shares, again.train.shares)
    assert (fold.test.shares == 0).all()  # of held-out spots nothing is deconvolved
    for name in ("ridge", "density"):
        assert np.allclose(spot_methods.METHODS[name](fold), spot_methods.METHODS[name](again))
    assert np.corrcoef(fold.train.shares[:, 0], adata.obsm["composition"]["A"][~test])[0, 1] > 0.9


def test_patients_on_both_sides_stop_a_fold(rng):
    adata = cohort(rng)
    test = np.zeros(adata.n_obs, bool)
    test[:10] = True
    with pytest.raises(InputError, match="1 patients are in train and in test"):
        spot_methods.make_fold(adata, adata.uns["profiles"], test, n_genes=20)


def test_genes_that_the_reference_lacks_are_named_and_teach_nothing(rng):
    adata = cohort(rng)
    test = (adata.obs.patient == "p0").to_numpy()
    some = adata.uns["profiles"].drop(columns=["GENE3", "GENE5"])
    fold = spot_methods.make_fold(adata, some, test, n_genes=60)
    assert sorted(fold.absent) == ["GENE3", "GENE5"]
    names = adata.var_names[fold.columns]
    flat = np.ptp(fold.profiles, axis=0) < 1e-6
    assert sorted(names[flat]) == ["GENE3", "GENE5"]


def test_every_method_finds_planted_structure_and_the_control_does_not(rng):
    from stpath_core import expression as ex
    from stpath_core import expression_tables as et

    adata = cohort(rng)
    training, splits = (
        spot_methods.Training(steps=120, widths=(32, 16), draws=2),
        ex.patient_folds(adata.obs.patient, 2),
    )
    spots_found, models = spot_methods.hold_out(adata, adata.uns["profiles"], splits, training, n_genes=20)
    assert [len(genes) for _, genes in models] == [20, 20]
    assert set(models[0][1]) <= set(spots_found.var_names)
    assert (spots_found.obs["fold"] >= 0).all()
    scores = et.spot_scores(spots_found).table(n=50).set_index(["method", "measure"])["mean"].unstack()
    best = scores.loc["oracle", "pcc"]
    assert best > 0.3
    for method in ("ridge", "mospr", "density", "cpnn", "cpnn_free", "beyond", "stnet", "no_prototype", "bleep"):
        assert scores.loc[method, "pcc"] > 0.6 * best, method
    assert abs(scores.loc["shuffled", "pcc"]) < 0.35 * best
    assert np.isnan(scores.loc["mean", "pcc"])
    assert et.composition_interval(spots_found, n=50)[0] > 0.8
    assert et.compositions(spots_found)["within"].min() > 0.8
    partial = et.without_depth(spots_found, ["ridge"])
    assert partial.loc["ridge", "partial"] > 0.5 * best  # totals say nothing here


def test_spots_held_out_by_two_processes_are_those_held_out_by_one(rng):
    from stpath_core import expression as ex

    adata = cohort(rng)
    how = adata.uns["profiles"], ex.patient_folds(adata.obs.patient, 2), spot_methods.Training(3, (8, 4), draws=1)
    del adata.uns["profiles"]
    (one, models), (two, others) = (spot_methods.hold_out(adata, *how, n_genes=20, workers=n) for n in (1, 2))
    for name in one.layers:
        np.testing.assert_array_equal(one.layers[name], two.layers[name])
    np.testing.assert_array_equal(*(found.obsm[spot_methods.WEIGHTS].to_numpy() for found in (one, two)))
    for (model, genes), (other, same) in zip(models, others, strict=True):
        assert genes == same
        torch.testing.assert_close(model.log_profiles, other.log_profiles, rtol=0, atol=0)


@pytest.mark.real
def test_sections_of_her2st_with_images_open_with_their_features(real_data, tmp_path, monkeypatch):
    seen = []

    def quick(image, centres_um, *, mpp, patch_um, **_):
        seen.append((image.shape, round(mpp, 2)))
        coords = spots.patch_corners(np.asarray(centres_um) / mpp, patch_px=round(patch_um / mpp))
        values = np.ones((len(centres_um), 4), np.float32)
        return Features(features=values, coords=coords, patch_px=round(patch_um / mpp), mpp=mpp)

    monkeypatch.setattr(spots, "section_features", quick)
    monkeypatch.setattr(io, "st_pictured", lambda folder: ["A1", "C2"])
    adata = spot_cohorts.her2st_spots(real_data / "her2st", folder=tmp_path)
    assert sorted(adata.obs.patient.unique()) == ["A", "C"]
    assert adata.obsm["features"].shape == (adata.n_obs, 4)
    assert [m for _, m in seen] == [3.19, 0.69]
    assert spot_cohorts.her2st_spots(real_data / "her2st", folder=tmp_path).n_obs == adata.n_obs
    assert len(seen) == 2  # kept the second time
    assert (adata.obs["mpp"] > spot_cohorts.LOW_RESOLUTION).groupby(adata.obs.section).all().to_dict() == {
        "A1": True, "C2": False,
    }  # fmt: skip


def test_a_reference_of_other_names_is_refused(rng):
    adata = cohort(rng)
    other = adata.uns["profiles"].rename(columns=lambda gene: f"ENSG{gene.removeprefix('GENE'):0>11}")
    with pytest.raises(InputError, match="0 of 60 genes are in the reference"):
        spot_methods.make_fold(adata, other, (adata.obs.patient == "p0").to_numpy(), n_genes=20)
