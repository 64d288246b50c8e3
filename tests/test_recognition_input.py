"""What Part 3 refuses and what it tells: labels, patients, names and files that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp

from stpath_core import expression, keys, mixing, probes, recognition, recognition_cohorts, recognition_study
from stpath_core import recognition_scores as scores
from stpath_core.errors import InputError
from stpath_core.gene_embeddings import METHODS, GeneSpots, embed_fold, write_embeddings
from stpath_core.gene_scores import mixing_measures
from stpath_core.spots import centred
from test_contrastive import QUICK, planted
from test_gene_embeddings import cohort, table

ONE_PATIENT = "with p0 held out the others hold 0 classes, two or more are needed; a class must be annotated in"
ONE_CLASS = "with p0 held out the others hold 1 class, two or more"


def labelled_in(spots, *patients):
    """The labels of these patients, those of the others hidden."""
    return np.where(np.isin(spots.patient, patients), spots.label, keys.UNLABELLED)


def one_class_left(spots):
    """The labels, the patients other than p0 left with one class."""
    return np.where((spots.patient == "p0") | (spots.label == "immune"), spots.label, keys.UNDETERMINED)


@pytest.mark.parametrize("probe", [probes.lda, probes.logistic, probes.nearest])
@pytest.mark.parametrize("smoothed", [False, True])
def test_the_probe_names_the_patient_without_whom_too_few_classes_are_left(probe, smoothed):
    spots = cohort()
    folds = dict.fromkeys(spots.patients, np.random.default_rng(0).normal(size=(len(spots.label), 4)))
    how = {"probe": probe, "smooth": probes.neighbourhood(spots.xy_um, spots.section) if smoothed else None}
    with pytest.raises(InputError, match=ONE_PATIENT):
        probes.judge(folds, labelled_in(spots, "p0"), spots.patient, **how)
    with pytest.raises(InputError, match=ONE_CLASS):
        probes.judge(folds, one_class_left(spots), spots.patient, **how)


def test_few_labels_of_one_class_are_refused_as_all_labels_are():
    spots = cohort()
    folds = {"p0": np.random.default_rng(0).normal(size=(len(spots.label), 4))}
    told = {"p0": spots.label == "immune"}
    with pytest.raises(InputError, match=ONE_CLASS):
        scores.judge_few(folds, spots.label, spots.patient, told)


def test_labels_are_not_transferred_from_fewer_than_two_classes():
    spots = cohort()
    z = np.random.default_rng(0).normal(size=(len(spots.label), 4))
    with pytest.raises(InputError, match=ONE_PATIENT):
        scores.transferred(z, labelled_in(spots, "p0"), spots.patient, "p0")
    with pytest.raises(InputError, match=ONE_CLASS):
        scores.transferred(z, one_class_left(spots), spots.patient, "p0")


def test_where_nothing_is_unlabelled_nothing_is_transferred():
    spots = cohort()
    z = np.random.default_rng(0).normal(size=(len(spots.label), 4))
    assert np.array_equal(scores.transferred(z, spots.label, spots.patient, "p0"), spots.label)


@pytest.mark.parametrize(
    "method", ["scanvi", "scanvi_section", partial(METHODS["scvi"], guided=True), partial(METHODS["scanvi"], steps=2)]
)
def test_a_guided_encoder_names_the_patient_without_whom_too_few_classes_are_left(method):
    spots = cohort()
    with pytest.raises(InputError, match=ONE_PATIENT):
        embed_fold(method, replace(spots, label=labelled_in(spots, "p0")), "p0")
    with pytest.raises(InputError, match=ONE_CLASS):
        embed_fold(method, replace(spots, label=one_class_left(spots)), "p0", transductive=True)


def test_an_unguided_encoder_needs_no_label():
    spots = cohort()
    bare = replace(spots, label=np.full(len(spots.label), keys.UNLABELLED))
    assert np.isfinite(embed_fold("scvi", bare, "p0", steps=2, hidden=8)).all()


def test_a_supervised_network_is_not_taught_by_fewer_than_two_classes():
    pairs, _, label = planted(40)
    rows = np.flatnonzero(pairs.patient != "p0")
    for words, n in ((np.where(label == "a", label, keys.UNLABELLED), 1), (np.full(40, keys.UNDETERMINED), 0)):
        with pytest.raises(InputError, match=f"the labels that may teach hold {n} classes in"):
            recognition.supervised(pairs, words, rows, settings=QUICK)


def two_patients():
    return GeneSpots.of(table(cohort())[:72].copy())


@pytest.mark.parametrize("method", ["scvi", "scanvi", "scvi_section", "scanvi_section", partial(METHODS["scvi"])])
def test_of_two_patients_none_can_be_held_out_from_an_encoder(method):
    with pytest.raises(InputError, match=r"holding out p0 leaves one patient \(p1\);.*give three patients or more"):
        embed_fold(method, two_patients(), "p0")


def test_two_patients_are_enough_for_the_simple_methods_and_for_an_encoder_that_sees_both():
    spots = two_patients()
    for method in ("raw", "pca", "section_z", "neighbourhood"):
        assert np.isfinite(embed_fold(method, spots, "p0")).all()
    assert np.isfinite(embed_fold("scvi", spots, "p0", transductive=True, steps=2, hidden=8)).all()


def test_one_patient_is_told_how_many_are_needed():
    with pytest.raises(InputError, match=r"give three or more, better six \(with two, one held out leaves one"):
        GeneSpots.of(table(cohort())[:36].copy())
    pairs = planted(40)[0]
    with pytest.raises(InputError, match=r"give three or more, better six \(with two, one held out leaves one"):
        replace(pairs, patient=np.full(40, "p0"))
    assert replace(pairs, patient=np.repeat(["p0", "p1"], 20)).patients == ["p0", "p1"]


def lacking(name, rows, *, category=False):
    """A table whose column holds nan in these rows."""
    adata = table(cohort())
    adata.obs[name] = adata.obs[name].astype(object)
    adata.obs.loc[adata.obs_names[rows], name] = np.nan
    if category:
        adata.obs[name] = adata.obs[name].astype("category")
    return adata


@pytest.mark.parametrize("category", [False, True])
@pytest.mark.parametrize("name", ["patient", "section"])
def test_spots_without_a_patient_or_section_are_counted_and_refused(name, category):
    adata = lacking(name, [4, 5, 90], category=category)
    told = (
        rf"obs\['{name}'\] is missing \(nan\) in 3 of 108 rows \(row 4 first\); every spot needs its {name}: fill it in"
    )
    with pytest.raises(InputError, match=told):
        GeneSpots.of(adata)
    with pytest.raises(InputError, match=told):
        recognition_study.pairs_of(adata, {"number": np.zeros((108, 1), np.float32)})
    with pytest.raises(InputError, match=told):
        recognition_study.predict_expression(adata, {"p0": np.zeros((108, 2), np.float32)}, genes=5)
    with pytest.raises(InputError, match=told):
        recognition_cohorts.joined({"one": adata[:60].copy(), "other": adata[60:].copy()})


@pytest.mark.parametrize("category", [False, True])
def test_a_spot_without_a_label_is_unlabelled(category):
    adata = lacking("label", [4, 5, 90], category=category)
    wanted = cohort().label.astype(object)
    wanted[[4, 5, 90]] = keys.UNLABELLED
    assert np.array_equal(GeneSpots.of(adata).label, wanted)
    parts = {"one": adata[:60].copy(), "other": adata[60:].copy()}
    assert np.array_equal(recognition_cohorts.joined(parts).obs["label"].to_numpy(str), wanted)


@pytest.mark.parametrize("words", [[keys.UNLABELLED], [keys.UNLABELLED, keys.UNDETERMINED, "immune"]])
def test_patients_that_mix_are_measured_without_classes_on_all_spots(words):
    spots = cohort()
    bare = replace(spots, label=np.array(words)[np.arange(108) % len(words)])
    z = np.random.default_rng(0).normal(size=(108, 4))
    found = mixing_measures({"p0": z}, bare)
    assert found["mixing"] == pytest.approx(mixing.mixing(z, spots.patient))
    assert found["ilisi"] == pytest.approx(mixing.ilisi(z, spots.patient))
    assert np.isnan([found[name] for name in ("within_class", "clisi", "connectivity")]).all()
    with pytest.raises(InputError, match=r"or judge by mixing \(gene_scores.mixing_measures\), which needs none"):
        probes.judge({"p0": z}, bare.label, spots.patient)


def test_a_spot_that_is_all_zero_is_named():
    adata = table(cohort())
    counts = adata.layers["counts"].toarray()
    counts[7] = 0
    adata.layers["counts"] = sp.csr_matrix(counts)
    with pytest.raises(InputError, match=r"1 of 108 spots have no count at all \(row 7 first\); leave them out"):
        GeneSpots.of(adata)


def test_empty_spots_are_left_out_and_counted():
    adata = table(cohort())
    assert recognition_cohorts.without_empty(adata).uns[recognition_cohorts.EMPTY] == 0
    counts = adata.layers["counts"].toarray()
    counts[[7, 50]] = 0
    adata.layers["counts"] = sp.csr_matrix(counts)
    kept = recognition_cohorts.without_empty(adata)
    assert kept.uns[recognition_cohorts.EMPTY] == 2
    assert list(kept.obs_names) == [name for name in adata.obs_names if name not in ("7", "50")]
    assert len(GeneSpots.of(kept).patient) == 106


def test_a_real_cohort_needs_its_folder():
    with pytest.raises(InputError, match="dataset=her2st is read from a folder: pass data_dir=FOLDER"):
        recognition_cohorts.open_cohort("her2st")


def test_sections_without_a_common_gene_are_refused_and_others_keep_what_all_have():
    one, other = table(cohort())[:36].copy(), table(cohort())[36:].copy()
    one.var_names, other.var_names = ([f"{word}{i}" for i in range(40)] for word in ("GENE", "ENSG"))
    with pytest.raises(InputError, match="the 2 sections have no gene in common: are all named alike"):
        recognition_cohorts.joined({"one": one, "other": other})
    other.var_names = ["GENE3", *other.var_names[1:]]
    assert list(recognition_cohorts.joined({"one": one, "other": other}).var_names) == ["GENE3"]


@pytest.fixture
def stage(tmp_path):
    """What notebook 30 leaves, spots and embeddings; the label of every third spot is missing."""
    adata = table(cohort())
    adata.obs["label"] = adata.obs["label"].where(np.arange(108) % 3 > 0)
    adata.write_h5ad(tmp_path / "spots.h5ad")
    z = np.random.default_rng(0).normal(size=(108, 3)).astype(np.float32)
    write_embeddings(tmp_path / "embeddings.h5", {"section_z": dict.fromkeys(("p0", "p1", "p2"), z)})
    return tmp_path


def test_pictures_of_no_spot_are_counted_and_refused(stage):
    with pytest.raises(InputError, match=r"2 of 3 pictures belong to no spot of .*: run 31 again after 30"):
        recognition_study.open_stage(stage, np.array(["5", "x", "y"]))


def test_a_stage_is_opened_for_the_spots_with_a_picture_and_missing_labels_are_unlabelled(stage):
    names = np.array(["40", "0", "3", "1", "80"])
    spots, sides, label, folds = recognition_study.open_stage(stage, names)
    assert list(spots.obs_names) == list(names)
    assert folds == ("p0", "p1", "p2")
    assert list(label) == [cohort().label[40], keys.UNLABELLED, keys.UNLABELLED, cohort().label[1], cohort().label[80]]
    assert sides["p1"]["section_z"].shape == (5, 3)


def test_a_fold_predicts_the_genes_that_its_training_patients_choose():
    adata = table(cohort(n=49))
    patient, section = (adata.obs[name].to_numpy(str) for name in ("patient", "section"))
    own, folds = patient == "p1", dict.fromkeys(("p0", "p1"), np.random.default_rng(0).normal(size=(147, 4)))
    other = adata.copy()
    counts = other.layers["counts"].toarray()
    rare = np.argsort(counts[~own].sum(0))[:5]
    counts[np.ix_(own, rare)] += 500  # of the held-out patient these are the most abundant by far
    other.layers["counts"] = sp.csr_matrix(counts)
    before, after = (recognition_study.predict_expression(a, folds, genes=6) for a in (adata, other))
    assert np.array_equal(before[0][own], after[0][own])
    chosen = expression.panel(counts, np.flatnonzero(~own), 6)
    assert not np.isin(rare, chosen).any()
    for (_, measured), table_ in ((before, adata), (after, other)):
        wanted = centred(expression.target(table_.layers["counts"], chosen), section)
        np.testing.assert_allclose(measured[own], wanted[own], rtol=1e-5, atol=1e-6)
    first = patient == "p0"  # the held-out patient of one fold teaches in the other
    assert not np.array_equal(before[0][first], after[0][first])
    assert np.isnan(after[1][patient == "p2"]).all()
