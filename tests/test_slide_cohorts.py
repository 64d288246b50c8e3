"""A folder of slides as an archive gives it: read whole, joined by sample, refused with one line when it is wrong."""

from __future__ import annotations

import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from stpath_core import expression, keys, run, slide_cohorts, slide_methods, slide_runs
from stpath_core.errors import InputError
from stpath_core.features import feature_names
from stpath_core.spot_methods import Training
from stpath_core.tissue.broad import broad_genes
from stpath_core.tissue.slides import Bag, SlideCohort


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Eight slides of seven tiles and fewer, named as TCGA names them."""
    rng = np.random.default_rng(0)
    names = [f"TCGA-A{k}-01Z-00-DX1" for k in range(8)]
    bags = {
        name: Bag(rng.normal(size=(1 + k % 7, 6)).astype(np.float32), np.full((1 + k % 7, 2), 224 * k), None)
        for k, name in enumerate(names)
    }
    genes = list(broad_genes())[:300]
    counts = csr_matrix(rng.poisson(20, (8, 300)).astype(np.int32))
    obs = pd.DataFrame(
        {keys.PATIENT: [f"TCGA-A{k // 2}" for k in range(8)]}, index=[f"TCGA-A{k}-01A" for k in range(8)]
    )
    bulk = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
    bulk.layers[keys.COUNTS] = bulk.X.copy()
    cohort = SlideCohort(bags, bulk)
    return slide_cohorts.write_slides(tmp_path_factory.mktemp("archive"), cohort), cohort


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "archive")


def test_what_is_written_is_read_and_can_be_split(written, folder):
    cohort = written[1]
    bags, bulk = slide_cohorts.open_slides(folder)
    for mine, bag in zip(bags, cohort.bags.values(), strict=True):
        np.testing.assert_array_equal(mine, bag.features)
    assert list(bulk.obs_names) == list(cohort.bulk.obs_names)
    assert (bulk.layers[keys.COUNTS] != cohort.bulk[:, bulk.var_names].layers[keys.COUNTS]).nnz == 0
    profiles = pd.DataFrame(np.random.default_rng(1).gamma(1, 1, (3, 300)) + 0.1, list("abc"), bulk.var_names)
    splits = expression.patient_folds(bulk.obs[keys.PATIENT], 2)
    told, models = slide_runs.hold_out(bags, bulk, profiles, splits, Training(steps=2, widths=(8, 8)), n_genes=50)
    assert len(models) == 2
    assert np.isfinite(told.layers["cpnn"]).sum() == 8 * 50
    assert "oracle" not in told.layers  # no truth, no oracle


def test_rows_without_a_partner_are_left_out_and_told(written, folder):
    (folder / "features" / "TCGA-A3-01Z-00-DX1.h5").unlink()
    table = pd.read_csv(folder / "bulk.tsv", sep="\t", index_col=0)
    table.drop(columns="TCGA-A5-01A").iloc[:, ::-1].to_csv(folder / "bulk.tsv", sep="\t")
    bags, bulk = slide_cohorts.open_slides(folder)
    assert len(bags) == bulk.n_obs == 6
    assert bulk.obs["n_patches"].tolist() == [1, 2, 3, 5, 7, 1]
    assert list(bulk.obs_names)[:3] == ["TCGA-A0-01A", "TCGA-A1-01A", "TCGA-A2-01A"]  # cases.csv decides the order
    planted = written[1].bulk[list(bulk.obs_names), list(bulk.var_names)]
    assert (bulk.layers[keys.COUNTS] != planted.layers[keys.COUNTS]).nnz == 0
    said = " ".join(bulk.uns[keys.NOTES])
    assert "1 slides of cases.csv without features" in said
    assert "1 slides without bulk" in said


def test_two_slides_of_a_sample_are_one_bag(folder):
    cases = pd.read_csv(folder / "cases.csv")
    cases.loc[1, "sample"] = cases.loc[0, "sample"]
    cases.to_csv(folder / "cases.csv", index=False)
    bags, bulk = slide_cohorts.open_slides(folder)
    assert bulk.obs["n_slides"].tolist() == [2] + [1] * 6
    assert len(bags[0]) == 3


def spoil_cases(**changes):
    def spoil(folder):
        cases = pd.read_csv(folder / "cases.csv")
        for column, value in changes.items():
            cases.loc[0, column] = value
        cases.to_csv(folder / "cases.csv", index=False)

    return spoil


def spoil_features(change):
    def spoil(folder):
        with h5py.File(folder / "features" / "TCGA-A6-01Z-00-DX1.h5", "r+") as file:
            values = change(file["features"][...])
            del file["features"]
            file["features"] = values

    return spoil


def few_patients(folder):
    cases = pd.read_csv(folder / "cases.csv")
    cases["patient"] = ["first", "second"] * 4
    cases.to_csv(folder / "cases.csv", index=False)


def spoil_bulk(folder):
    table = pd.read_csv(folder / "bulk.tsv", sep="\t", index_col=0)
    (table / 3).to_csv(folder / "bulk.tsv", sep="\t")


def no_patch(folder):
    with h5py.File(folder / "features" / "TCGA-A6-01Z-00-DX1.h5", "r+") as file:
        for name in ("features", "coords"):
            values = file[name][:0]
            del file[name]
            file[name] = values


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "cases.csv").unlink(), "which slide is of which patient"),
        (lambda f: (f / "cases.csv").write_text("slide,case\na,b\n"), "lacks the columns patient, sample"),
        (spoil_cases(patient=" "), "1 rows without a slide, a patient or a sample"),
        (spoil_cases(slide="TCGA-A1-01Z-00-DX1"), "1 slides that come twice"),
        (spoil_cases(sample="TCGA-A7-01A"), "1 samples of two patients, first 'TCGA-A7-01A'"),
        (few_patients, "slides of 2 patients .at least 4."),
        (spoil_bulk, "bulk.tsv holds values like 7.667"),
        (lambda f: (f / "bulk.tsv").unlink(), "0 bulk tables"),
        (lambda f: shutil.copy(f / "bulk.tsv", f / "bulk.csv"), "2 bulk tables"),
        (lambda f: shutil.rmtree(f / "features"), "8 have no features"),
        (spoil_features(lambda v: v[:, :4]), "features of width 4"),
        (spoil_features(lambda v: v[:0]), "and coords"),
        (no_patch, "TCGA-A6-01Z-00-DX1.h5 holds no patch"),
        (spoil_features(lambda v: v * np.nan), "NaN or infinite features"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, spoil, said):
    spoil(folder)
    with pytest.raises(InputError, match=said):
        slide_cohorts.open_slides(folder)


def test_what_was_found_and_left_out_is_told(folder, capsys):
    (folder / "features" / "TCGA-A3-01Z-00-DX1.h5").unlink()
    bulk = slide_cohorts.open_slides(folder)[1]
    assert "without features, first TCGA-A3-01Z-00-DX1" in capsys.readouterr().out
    assert slide_cohorts.told(bulk) == "7 samples of 4 patients, 300 genes, 1 to 7 patches a sample"


def test_optical_density_is_no_rival_where_features_do_not_hold_it(written):
    bags, bulk = slide_cohorts.open_slides(written[0])
    profiles = pd.DataFrame(np.random.default_rng(1).gamma(1, 1, (3, 300)) + 0.1, list("abc"), bulk.var_names)
    test = np.arange(8) < 4
    training = Training(steps=1, widths=(8, 8), draws=1)
    rng = np.random.default_rng(2)
    own = [rng.normal(size=(len(bag), len(feature_names()))) for bag in bags]
    for given, there in ((bags, False), (own, True)):
        fold = slide_methods.make_fold(given, bulk, profiles, test, n_genes=50)
        found = slide_runs.run_fold(fold, training)[0]
        assert ("density" in found) == there
        assert "ridge" in found


def archive(folder, home, *words):
    """What the runner says before a kernel starts."""
    home.add("10_one", parameters='scrna: str = ""  # cells', header="# datasets: [virtual, slides]\n")
    return run.plan(["10"], {"dataset": "slides", "data_dir": str(folder), **dict(words)})


def test_an_archive_that_cannot_serve_is_refused_before_a_kernel_starts(folder, toys):
    with pytest.raises(InputError, match=r"no reference.h5ad in it .* -p scrna=FILE.h5ad"):
        archive(folder, toys)
    archive(folder, toys, ("scrna", "elsewhere.h5ad"))
    (folder / "reference.h5ad").touch()
    archive(folder, toys)
    (folder / "cases.csv").unlink()
    with pytest.raises(InputError, match="which slide is of which patient"):
        archive(folder, toys)
