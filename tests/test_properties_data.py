"""What must hold of labels and splits for any tissue and cohort: nothing lost, nothing twice, nobody on two sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stpath_core import expression as ex
from stpath_core import keys, labels, leakage, nuclei
from stpath_core.data import NucleiSection
from stpath_core.errors import InputError
from stpath_core.io import Section
from stpath_core.tissue.cell_types import SUPER_CLASSES

SOME = settings(max_examples=60)
GENES = ("EPCAM", "CD3E", "VIM")
MPP = 0.5
cohorts = st.lists(st.sampled_from(["p1", "p2", "p3", "p4", "p5", "P1", "10", "9"]), min_size=2, max_size=40)


@st.composite
def tissues(draw) -> Section:
    """A mask of up to six nuclei, some without a pixel, and molecules on and off them, some of no gene of the panel."""
    mask = draw(arrays(np.int32, (8, 9), elements=st.integers(0, 6)))
    n = draw(st.integers(6, 8))
    shift = draw(st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
    rows = draw(st.lists(st.tuples(st.integers(-2, 20), st.integers(-2, 20), st.sampled_from([*GENES, None]),
                                   st.integers(-1, n - 1)), max_size=30))  # fmt: skip
    x, y, gene, nucleus = zip(*rows, strict=True) if rows else ((), (), (), ())
    transcripts = pd.DataFrame({"x_um": np.array(x, float) / 4, "y_um": np.array(y, float) / 4,
                                "gene": pd.Categorical(gene, categories=GENES),
                                "nucleus": np.array(nucleus, int)})  # fmt: skip
    cells = pd.DataFrame({"cell_id": [f"c{i}" for i in range(n)], "x_um": np.arange(n) / 2.0, "y_um": 1.0})
    affine = np.array([[1 / MPP, 0, shift[0]], [0, 1 / MPP, shift[1]], [0, 0, 1.0]])
    return Section(name="s", organ="breast", patient="p", dataset="x", image=np.zeros((8, 9, 3), np.uint8), mpp=MPP,
                   nuclei=cells, mask=mask, transcripts=transcripts, genes=GENES, um_to_px=affine)  # fmt: skip


def slowly(section: Section, *, by_place: bool) -> np.ndarray:
    """Counts one molecule at a time."""
    out = np.zeros((len(section.nuclei), len(GENES)), int)
    for row in section.transcripts.itertuples():
        nucleus = row.nucleus
        if by_place:
            across, down = (int(np.floor(v / MPP + o)) for v, o in
                            ((row.x_um, section.um_to_px[0, 2]), (row.y_um, section.um_to_px[1, 2])))  # fmt: skip
            inside = 0 <= down < 8 and 0 <= across < 9
            nucleus = section.mask[down, across] - 1 if inside else -1
        if nucleus >= 0 and isinstance(row.gene, str):
            out[nucleus, GENES.index(row.gene)] += 1
    return out


@SOME
@given(tissues(), st.randoms(use_true_random=False))
def test_every_molecule_is_counted_once_whatever_their_order(section, random):
    order = random.sample(range(len(section.transcripts)), len(section.transcripts))
    mixed = Section(**vars(section) | {"transcripts": section.transcripts.iloc[order]})
    for grow_um in (None, 0, 1.2):
        counted, again = (labels.count_transcripts(s, grow_um=grow_um) for s in (section, mixed))
        np.testing.assert_array_equal(counted.X.toarray(), again.X.toarray())
        assert counted.X.sum() == counted.obs[keys.TOTAL_COUNTS].sum() <= section.transcripts.gene.notna().sum()
        assert counted.obs_names.is_unique
        if grow_um != 1.2:
            np.testing.assert_array_equal(counted.X.toarray(), slowly(section, by_place=grow_um == 0))
        else:  # grown outlines lose no molecule
            assert counted.X.sum() >= labels.count_transcripts(section, grow_um=0).X.sum()


@SOME
@given(tissues(), st.lists(st.sampled_from([*SUPER_CLASSES, keys.UNKNOWN]), min_size=8, max_size=8))
def test_packed_nuclei_keep_their_pixels_names_and_places(section, called):
    adata = labels.count_transcripts(section)
    n = len(adata)
    adata.obs[keys.LABEL], adata.obs[keys.CONFIDENCE] = called[:n], np.arange(n) / n
    packed, ids = labels.pack_section(section, adata), labels.instance_ids(section)
    kept = ids[ids > 0]
    assert sorted(kept) == list(range(1, len(kept) + 1))
    assert packed.instances.max() == len(kept) == len(packed.labels) - 1
    np.testing.assert_array_equal(packed.instances > 0, section.mask > 0)
    for nucleus, i in enumerate(ids):
        area = section.mask == nucleus + 1
        assert (i == 0) == (not area.any())
        if i:
            np.testing.assert_array_equal(packed.instances == i, area)
            name = called[nucleus]
            assert packed.labels[i] == (-1 if name == keys.UNKNOWN else SUPER_CLASSES.index(name))
            assert packed.confidence[i] == np.float32(nucleus / n)
    if len(kept):
        adata.obs[keys.INSTANCE] = ids
        (values,) = labels.by_instance(adata, np.arange(n, dtype=float), [packed])
        np.testing.assert_array_equal(values[ids[ids > 0]], np.flatnonzero(ids))
        assert values[0] == -1


@SOME
@given(cohorts, st.lists(st.sampled_from(["a", "b", keys.UNKNOWN]), min_size=40, max_size=40), st.integers(0, 99))
def test_shuffled_labels_are_the_same_labels_of_the_same_patient(patients, called, seed):
    import anndata

    obs = pd.DataFrame({keys.PATIENT: patients, keys.LABEL: called[: len(patients)]}).rename(index=str)
    obs[keys.CONFIDENCE] = np.arange(len(obs))
    table = anndata.AnnData(obs=obs)
    mixed = labels.shuffle_labels(table, rng=np.random.default_rng(seed))
    together = [sorted(zip(t.obs[keys.PATIENT], t.obs[keys.LABEL], t.obs[keys.CONFIDENCE], strict=True))
                for t in (table, mixed)]  # fmt: skip
    assert together[0] == together[1]
    np.testing.assert_array_equal(table.obs[keys.LABEL], obs[keys.LABEL])


@SOME
@given(cohorts, st.integers(2, 8), st.integers(0, 9), st.randoms(use_true_random=False))
def test_every_row_is_held_out_once_with_all_of_its_patient(patients, n, seed, random):
    patients = np.array(patients)
    names = np.unique(patients)
    if n > len(names):
        with pytest.raises(InputError, match=f"{n} folds of {len(names)} patients"):
            ex.patient_folds(patients, n)
        return
    order = random.sample(range(len(patients)), len(patients))
    for folds in (n, None) if len(names) > 1 else ():
        found = ex.patient_folds(patients, folds, seed=seed)
        assert len(found) == (folds or len(names))
        np.testing.assert_array_equal(np.sum(found, 0), 1)
        for test, again in zip(found, ex.patient_folds(patients[order], folds, seed=seed), strict=True):
            assert not set(patients[test]) & set(patients[~test])
            assert len(ex.audit_patients(patients[~test], patients[test])) == 2
            np.testing.assert_array_equal(test[order], again)  # the folds are of patients, not of rows
    largest = max(np.unique(patients, return_counts=True)[1])
    assert max(f.sum() for f in ex.patient_folds(patients, n, seed=seed)) <= len(patients) / n + largest


@SOME
@given(cohorts, cohorts, st.sampled_from(["", " ", "\t"]), st.sampled_from(["", "  "]))
def test_the_auditors_refuse_whoever_is_on_both_sides_and_nobody_else(train, test, before, after):
    seen = [f"{before}{name}{after}" for name in test]  # a blank in a table makes no other person
    shared = sorted(set(train) & set(test))
    sides = [[image_of(name) for name in side] for side in (train, seen)]
    calls = (lambda: ex.audit_patients(train, seen), lambda: leakage.audit_split(*sides))
    for call in calls:
        if shared:
            with pytest.raises(InputError, match=shared[0]):
                call()
        else:
            call()


def image_of(patient: str) -> NucleiSection:
    """A section too small to be compared as a picture."""
    return NucleiSection("s", "breast", patient, np.zeros((4, 4, 3), np.uint8), MPP, np.zeros((4, 4), np.int32))


@pytest.mark.parametrize("name", [None, float("nan"), pd.NA, pd.NaT, "", " ", "NA", "n/a", "NaN", "Unknown"])
def test_a_patient_without_a_name_is_nobody_and_cannot_be_kept_apart(name):
    with pytest.raises(InputError, match="1 rows without a patient"):
        ex.audit_patients(pd.Series(["a", name], dtype=object), ["b"])
    with pytest.raises(InputError, match="no patient"):
        leakage.audit_split([image_of(name)], [image_of("b")])


@SOME
@given(cohorts, st.integers(0, 9), st.floats(0.05, 0.9), st.integers(2, 5))
def test_splits_of_sections_share_no_patient_and_lose_no_section(patients, seed, share, folds):
    blank = image_of("")
    sections = [replace(blank, name=f"s{k}", organ=f"organ{len(p) % 2}", patient=p) for k, p in enumerate(patients)]
    names = set(patients)
    if len(names) > 1:
        fit, held = nuclei.inner_split(sections, seed=seed, share=share)
        assert {s.name for s in fit} | {s.name for s in held} == {s.name for s in sections}
        assert fit
        assert held
        leakage.audit_split(fit, held)
    if len(names) >= folds:
        splits = nuclei.outer_splits(sections, folds=folds)
        assert sorted(name for s in splits for name in s.test) == sorted(s.name for s in sections)
        by_name = {s.name: s for s in sections}
        for split in splits:
            assert len(split.train) + len(split.test) == len(sections)
            leakage.audit_split(*([by_name[name] for name in side] for side in (split.train, split.test)))


@SOME
@given(arrays(np.float64, 20, elements=st.floats(0, 1)), arrays(bool, 20), st.integers(2, 30))
def test_coverage_grows_to_all_and_ends_at_the_accuracy_of_all(confidence, correct, points):
    curve = labels.risk_coverage(correct, confidence, points=points)
    assert curve["coverage"].is_monotonic_increasing
    assert curve["confidence"].is_monotonic_decreasing
    assert (curve["coverage"].iloc[-1], curve["accuracy"].iloc[-1]) == (1, pytest.approx(correct.mean()))
    assert curve["accuracy"].between(0, 1).all()
