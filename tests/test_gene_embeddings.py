"""Embeddings with a patient held out, the probe that judges them, and mixing: identities and planted truth."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import f1_score

from stpath_core import mixing, probes
from stpath_core.errors import InputError
from stpath_core.gene_embeddings import (
    GeneSpots,
    class_codes,
    embed_fold,
    embed_folds,
    read_embeddings,
    write_embeddings,
)
from stpath_core.gene_scores import noise, probe_scores, score_table, shuffled_labels
from stpath_core.leakage import audit_labels

WORDS = np.array(["adipose", "immune", "tumour"])


def cohort(n=36, n_genes=40, *, batch=1.5, seed=0):
    """Three patients of n spots on a square array, three classes in bands, a factor per gene and patient."""
    rng = np.random.default_rng(seed)
    across = int(n**0.5)
    row, column = (a.ravel() for a in np.indices((across, across)))
    code = np.tile(column * 3 // across, 3)
    who = np.repeat([0, 1, 2], n)
    rate = np.exp(rng.normal(0, 1, (3, n_genes))[code] + batch * rng.normal(0, 1, (3, n_genes))[who])
    counts = rng.poisson(600 * rate / rate.sum(1, keepdims=True))
    patient = np.array(["p0", "p1", "p2"])[who]
    xy_um = np.tile(100.0 * np.stack([column, row], 1), (3, 1))
    return GeneSpots(sp.csr_matrix(counts), patient, patient, WORDS[code].astype(str), xy_um)


def table(spots):
    obs = pd.DataFrame({"patient": spots.patient, "section": spots.section, "label": spots.label})
    adata = anndata.AnnData(spots.counts, obs=obs.set_index(obs.index.astype(str)), obsm={"spatial": spots.xy_um})
    adata.layers["counts"] = spots.counts
    return adata


@pytest.mark.parametrize("method", ["raw", "section_z", "scvi", "scanvi"])
def test_nothing_of_the_held_out_patient_reaches_the_training(method):
    """Change the patient's counts and labels: the embedding of the *others* stays bit for bit."""
    spots, options = cohort(), {"steps": 3, "hidden": 8} if method.startswith("sc") else {}
    out = spots.patient == "p1"
    counts = spots.counts.toarray()
    counts[out] = counts[out][::-1] + 3
    label = spots.label.copy()
    label[out] = "adipose"
    other = replace(spots, counts=sp.csr_matrix(counts), label=label)
    before, after = (embed_fold(method, s, "p1", genes=30, **options) for s in (spots, other))
    assert np.array_equal(before[~out], after[~out])
    assert not np.allclose(before[out], after[out])
    seen = embed_fold(method, other, "p1", genes=30, transductive=True, **options)
    assert method == "raw" or not np.allclose(before[~out], seen[~out])


def test_the_guided_encoder_hears_the_training_labels_and_no_others():
    spots = cohort()

    def stages(label):
        return embed_fold("scanvi", replace(spots, label=label), "p2", steps=3, hidden=8)

    audit_labels(stages, spots.label, spots.patient == "p2")
    with pytest.raises(InputError, match="labels of held-out spots reach the embedding"):
        audit_labels(stages, spots.label, spots.patient == "p0")


def test_a_class_that_only_the_held_out_patient_has_is_unknown_to_the_guided_encoder():
    spots = cohort()
    lonely = spots.label.copy()
    lonely[(spots.patient == "p2") & (lonely == "immune")] = "a class of its own"  # first in the alphabet
    a, b = (embed_fold("scanvi", replace(spots, label=y), "p2", steps=2, hidden=8) for y in (spots.label, lonely))
    assert np.array_equal(a, b)


def test_section_z_has_mean_0_and_sd_1_in_every_section_and_mixes():
    spots = cohort()
    z = embed_fold("section_z", spots, "p0")
    for name in np.unique(spots.section):
        own = z[spots.section == name]
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(own.std(0), 1, atol=1e-2)
    assert mixing.mixing(embed_fold("pca", spots, "p0"), spots.patient) < 0.1
    assert mixing.mixing(z, spots.patient) > 0.5


def test_a_spot_that_is_empty_on_the_chosen_genes_is_encoded_all_the_same():
    spots = cohort()
    counts = np.c_[spots.counts.toarray(), np.zeros(len(spots.patient), int)]
    counts[5, :-1], counts[5, -1] = 0, 1
    z = embed_fold("scvi", replace(spots, counts=sp.csr_matrix(counts)), "p2", genes=20, steps=2, hidden=8)
    assert np.isfinite(z).all()


def test_embeddings_come_back_from_their_file(tmp_path):
    spots = cohort()
    made = embed_folds(spots, {"pca": "pca", "z": "section_z"})
    write_embeddings(tmp_path / "e.h5", made)
    back = read_embeddings(tmp_path / "e.h5")
    assert {name: set(folds) for name, folds in back.items()} == {n: {"p0", "p1", "p2"} for n in ("pca", "z")}
    assert np.array_equal(back["z"]["p1"], made["z"]["p1"])


def test_bad_tables_are_told():
    adata = table(cohort())
    del adata.obs["patient"]
    with pytest.raises(InputError, match=r"obs\['patient'\] is missing; the table has obs \['section', 'label'\]"):
        GeneSpots.of(adata)
    adata = table(cohort())
    adata.layers["counts"] = adata.layers["counts"].log1p()
    with pytest.raises(InputError, match="normalised or logged"):
        GeneSpots.of(adata)
    with pytest.raises(InputError, match="the batch effect and the biology are the same difference"):
        GeneSpots.of(table(cohort())[:36].copy())
    with pytest.raises(InputError, match="choose one of raw, pca"):
        embed_fold("umap", cohort(), "p0")
    with pytest.raises(InputError, match="leaves nobody to learn from, or is nobody"):
        embed_fold("pca", cohort(), "p9")


def test_macro_f1_is_sklearns_over_the_classes_that_are_there():
    rng = np.random.default_rng(0)
    true, said = rng.choice(["a", "b", "c"], 80), rng.choice(["a", "b", "c", "d"], 80)
    wanted = f1_score(true, said, average="macro", labels=["a", "b", "c"])
    assert probes.macro_f1(true, said) == pytest.approx(wanted)


@pytest.mark.parametrize("probe", [probes.lda, probes.logistic, probes.nearest])
def test_a_probe_reads_what_is_there_and_nothing_from_noise(probe):
    spots, rng = cohort(), np.random.default_rng(0)
    told = np.eye(3)[class_codes(spots.label)] + 0.2 * rng.normal(size=(len(spots.label), 3))
    knows = probes.judge(dict.fromkeys(spots.patients, told), spots.label, spots.patient, probe=probe)
    guesses = probes.judge(noise(spots, k=5), spots.label, spots.patient, probe=probe)
    assert knows.pooled > 0.95
    assert guesses.pooled < 0.5
    assert set(knows.patient) == set(spots.patients)


def test_the_probe_is_not_told_the_labels_of_the_patient_it_is_asked_about():
    spots = cohort(n=144)
    far = np.c_[spots.xy_um, 1e6 * class_codes(spots.patient)]  # whoever knows the patient's own labels reads the bands
    found = probes.judge(dict.fromkeys(spots.patients, far), spots.label, spots.patient, probe=probes.nearest)
    flipped = np.where(spots.patient == "p1", np.roll(spots.label, 4), spots.label)
    other = probes.judge({"p1": far}, flipped, spots.patient, probe=probes.nearest)
    assert np.array_equal(other.predicted[spots.patient == "p1"], found.predicted[spots.patient == "p1"])


def test_smoothing_averages_over_the_nine_and_helps_where_tissue_is_smooth():
    spots, rng = cohort(), np.random.default_rng(1)
    smooth = probes.neighbourhood(spots.xy_um, spots.section)
    own = np.flatnonzero(spots.patient == "p1")
    values = rng.random((36, 2))
    wanted = values.reshape(6, 6, 2)[0:3, 1:4].mean((0, 1))  # around row 1, column 2
    np.testing.assert_allclose(smooth(values, own)[1 * 6 + 2], wanted, rtol=1e-5)
    weak = np.eye(3)[class_codes(spots.label)] + 0.9 * rng.normal(size=(len(spots.label), 3))
    scores = probe_scores(dict.fromkeys(spots.patients, weak), spots)
    assert scores["smoothed"].pooled > scores["f1"].pooled + 0.05


def test_undetermined_spots_are_neither_told_nor_asked_and_a_lonely_class_counts():
    spots = cohort()
    label = spots.label.copy()
    label[::5] = "undetermined"
    label[(spots.patient == "p2") & (label == "immune")] = "glands"
    z = dict.fromkeys(spots.patients, np.eye(3)[class_codes(spots.label)] + 0.01 * spots.xy_um[:, :1])
    found = probes.judge(z, label, spots.patient)
    assert "undetermined" not in found.predicted
    assert probes.lonely_classes(label, spots.patient) == ["glands"]
    assert 1 / 3 < found.patient["p2"] <= 2 / 3  # two of its three classes can be known, the third is called another
    with pytest.raises(InputError, match="0 classes; a probe needs two"):
        probes.judge(z, np.full(len(label), "unlabelled"), spots.patient)


def test_intervals_are_over_patients_and_paired():
    spots, rng = cohort(n=100), np.random.default_rng(0)
    base = np.eye(3)[class_codes(spots.label)]
    strong, weak = (base + s * rng.normal(size=base.shape) for s in (0.3, 1.0))
    a, b = (probes.judge(dict.fromkeys(spots.patients, z), spots.label, spots.patient) for z in (strong, weak))
    inside = probes.pooled_interval(a, spots.label, spots.patient)
    assert inside.lo <= a.pooled <= inside.hi
    better = probes.pooled_difference(a, b, spots.label, spots.patient)
    assert better.mean == pytest.approx(a.pooled - b.pooled)
    assert better.lo > 0
    assert better.sign_p == pytest.approx(0.25)  # three of three
    assert probes.pooled_difference(a, a, spots.label, spots.patient)[:3] == (0, 0, 0)


def test_lisi_is_1_apart_and_the_number_of_groups_when_mixed():
    rng = np.random.default_rng(0)
    group = np.repeat(["a", "b", "c", "d"], 150)
    mixed, apart = rng.normal(size=(600, 3)), rng.normal(size=(600, 3)) + 100 * np.repeat(np.eye(4), 150, 0)[:, :3]
    assert np.median(mixing.lisi(mixed, group)) == pytest.approx(4, abs=0.5)
    assert mixing.ilisi(mixed, group) == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(mixing.lisi(apart, group), 1, atol=1e-6)
    assert mixing.ilisi(apart, group) == pytest.approx(0)
    assert mixing.clisi(apart, group) == pytest.approx(1)
    np.testing.assert_allclose(mixing.lisi(7 * mixed, group), mixing.lisi(mixed, group), rtol=1e-3)  # any unit


def test_lisi_weights_have_the_perplexity_that_was_asked_for():
    squared = np.sort(np.random.default_rng(0).random((5, 90)), 1)
    weight = mixing._gaussian(squared, perplexity=30)
    np.testing.assert_allclose(np.exp(-(weight * np.log(weight)).sum(1)), 30, rtol=1e-6)


def test_connectivity_is_the_largest_part():
    x = np.r_[np.arange(40.0), 1000 + np.arange(20.0), 5000 + np.arange(60.0)][:, None]
    label = np.repeat(["a", "b"], 60)
    assert mixing.graph_connectivity(x, label, neighbours=3) == pytest.approx((40 / 60 + 1) / 2)


def test_one_patient_cannot_mix():
    with pytest.raises(InputError, match="mixing needs two"):
        mixing.ilisi(np.zeros((9, 2)), np.full(9, "a"))


def test_the_table_has_every_method_its_interval_and_controls_that_know_nothing():
    spots = cohort(n=49)
    methods = embed_folds(spots, {"pca": "pca", "section_z": "section_z"}) | {"noise": noise(spots)}
    scores = {name: probe_scores(folds, spots) for name, folds in methods.items()}
    found = score_table(methods, scores, spots)
    assert list(found.index) == ["pca", "section_z", "noise"]
    assert found[["f1", "lo", "hi", "mixing", "ilisi", "clisi", "connectivity"]].notna().all(axis=None)
    assert found.loc["section_z", "f1"] > 0.9 > 0.5 > found.loc["noise", "f1"]
    control = shuffled_labels(spots)
    assert pd.crosstab(spots.patient, spots.label).equals(pd.crosstab(control.patient, control.label))
    assert probe_scores(methods["section_z"], control)["f1"].pooled < 0.5
