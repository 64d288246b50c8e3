"""What Part 3 refuses and what it tells: labels, patients, names and files that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from stpath_core import keys, probes, recognition
from stpath_core import recognition_scores as scores
from stpath_core.errors import InputError
from stpath_core.gene_embeddings import METHODS, GeneSpots, embed_fold
from test_contrastive import QUICK, planted
from test_gene_embeddings import cohort, table

ONE_PATIENT = (
    "with p0 held out the others hold 0 classes, two or more are needed; a class must be annotated in at least"
)
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
