"""The bundle of the cell-level assay: spatialdata-io opens it, and it says what was planted."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stpath_core import tissue
from stpath_core.io import open_xenium
from stpath_core.tissue.cell_assay import CONTROLS, MIN_QV, count_matrix, measure
from stpath_core.tissue.genes import panel
from stpath_core.tissue.xenium import cell_names
from virtual_bundle import bundle, bundle_copy, opened, section


def test_spatialdata_io_opens_every_element():
    from spatialdata_io import xenium

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata = xenium(bundle(), cells_as_circles=False)
    assert {"he_image", "morphology_focus"} <= set(sdata.images)
    assert {"cell_labels", "nucleus_labels"} <= set(sdata.labels)
    table = sdata["table"]
    assert len(sdata["nucleus_boundaries"]) == len(sdata["cell_boundaries"]) == len(table) == len(opened().nuclei)
    assert list(table.var_names) == list(panel())  # control probes are not genes
    points = sdata["transcripts"].compute()
    counted = points[(points["cell_id"] != "UNASSIGNED") & (points["qv"] >= MIN_QV)]
    counted = counted[~counted["feature_name"].astype(str).isin(CONTROLS)]
    assert len(counted) == table.X.sum()
    assert table.obs["cell_labels"].tolist() == list(range(1, len(table) + 1))


def test_outlines_lie_on_the_planted_nuclei_through_the_alignment_file():
    got = opened()
    links = got.truth["links"]
    whole = (links["kind"] == "whole").to_numpy()
    true = got.truth["cells"].set_index("cell_id").loc[links["true_cell"], ["x_um", "y_um"]].to_numpy()
    error_um = np.linalg.norm(got.centroids_px() * got.mpp - true, axis=1)[whole]
    effects = tissue.Effects()
    expected = effects.misregistration_um
    assert abs(np.median(error_um) - expected) < 0.6  # the planted misregistration, a little warp and wobble
    assert np.percentile(error_um, 99) < expected + 3
    overlap = (got.instances() > 0) & (got.truth["instances"] > 0)
    assert overlap.sum() > 0.6 * (got.truth["instances"] > 0).sum()


def test_without_effects_everything_is_where_it_was_made():
    made = section()
    clean = measure(made.arch, made.counts, effects=tissue.Effects.none(), seed=0)
    back = clean.nuclei_um @ clean.to_image[:2, :2].T + clean.to_image[:2, 2]
    np.testing.assert_allclose(back, made.arch.nuclei_um, atol=0.01)
    np.testing.assert_allclose(clean.to_image, clean.to_image_claimed, atol=1e-9)
    found = count_matrix(clean)[:, : len(panel())]
    agree = np.minimum(found.toarray(), made.counts.toarray()).sum() / made.counts.sum()
    assert len(clean.transcripts) == made.counts.sum()
    assert agree > 0.93


@pytest.mark.parametrize(
    ("name", "strength", "measure_of"),
    [
        ("missed", 0.3, lambda m, n: 1 - len(np.unique(m.true_cell)) / n),
        ("unassigned", 0.3, lambda m, n: (m.transcripts["cell"] == 0).mean()),
        ("low_quality", 0.3, lambda m, n: (m.transcripts["qv"] < MIN_QV).mean()),
        ("split", 0.3, lambda m, n: (m.kind == "split").mean()),
        ("merged", 0.3, lambda m, n: (m.kind == "merged").mean()),
    ],
)
def test_each_effect_does_what_it_says_and_zero_turns_it_off(name, strength, measure_of):
    made, n = section(), len(section().arch.cells)
    off = tissue.Effects.none()
    on = measure(made.arch, made.counts, effects=replace(off, **{name: strength}), seed=0)
    without = measure(made.arch, made.counts, effects=off, seed=0)
    assert measure_of(without, n) < 0.05
    assert measure_of(on, n) > measure_of(without, n) + 0.07


def test_leakage_carries_transcripts_out_of_their_cells():
    made, off = section(), tissue.Effects.none()

    def own(effects):
        found = count_matrix(measure(made.arch, made.counts, effects=effects, seed=0))[:, : len(panel())]
        return np.minimum(found.toarray(), made.counts.toarray()).sum() / made.counts.sum()

    assert own(replace(off, leakage=0.5, leakage_um=8)) < own(off) - 0.1
    assert own(replace(off, overlap=0.9)) < own(off) - 0.1


def test_the_same_seed_gives_the_same_section_bit_for_bit(tmp_path):
    again = tissue.make_section("breast", size_um=(260.0, 220.0), patient=1, seed=3)
    assert np.array_equal(again.image, section().image)
    assert (again.counts != section().counts).nnz == 0
    pd.testing.assert_frame_equal(again.measurement.transcripts, section().measurement.transcripts)
    other = tissue.make_section("breast", size_um=(260.0, 220.0), patient=1, seed=4)
    assert other.counts.shape != again.counts.shape or (other.counts != again.counts).nnz


def test_truth_is_beside_the_bundle_and_never_needed_to_open_it(tmp_path):
    import shutil

    copy = bundle_copy(tmp_path)
    shutil.rmtree(copy / "truth")
    without = open_xenium(copy)
    assert without.truth is None
    pd.testing.assert_frame_equal(without.nuclei, opened().nuclei)
    assert not any("truth" in str(v) for v in json.loads((copy / "experiment.xenium").read_text()).values())


def test_cell_names_are_the_vendors():
    from spatialdata_io.readers.xenium import cell_id_str_from_prefix_suffix_uint32

    n = 70_000
    theirs = cell_id_str_from_prefix_suffix_uint32(np.arange(1, n + 1), np.ones(n, np.uint32))
    assert np.array_equal(cell_names(n), theirs)


def test_a_cohort_is_reused_whole_and_made_again_when_it_differs(tmp_path):
    make = {"organs": ("breast",), "patients": 1, "size_um": (300, 300), "workers": 1}
    seen = []
    (folder,) = tissue.write_cohort(
        tmp_path, **make, progress=lambda done, total, name: seen.append((done, total, name))
    )
    assert seen == [(1, 1, "breast_p0")]
    stamp = (folder / "transcripts.parquet").stat().st_mtime_ns
    tissue.write_cohort(tmp_path, **make)
    assert (folder / "transcripts.parquet").stat().st_mtime_ns == stamp
    tissue.write_cohort(tmp_path, **make, effects=tissue.Effects.none())
    assert (folder / "transcripts.parquet").stat().st_mtime_ns != stamp
    assert [p.name for p in tmp_path.iterdir()] == ["breast_p0"]


def test_another_seed_brings_other_patients(tmp_path):
    (folder,) = tissue.write_cohort(tmp_path, organs=("lung",), patients=1, size_um=(200, 200), seed=2, workers=1)
    assert folder.name == "lung_p200"
