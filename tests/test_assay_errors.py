"""The price of the assay's errors: only the assay differs, and what the committed table says can be computed again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stpath_core import assay_errors, labels, study
from stpath_core.errors import InputError
from stpath_core.io.registry import DATA_FOLDER
from stpath_core.tissue import Effects

GRID = {"error": list(assay_errors.STRENGTHS), "strength": [0, 1, 2, 3], "seed": [0, 1, 2, 3, 4]}


def test_two_measurements_differ_in_the_assay_only():
    good, bad = (
        assay_errors.measured("lung", effects=replace(Effects(), leakage=share), seed=1, size_um=120)
        for share in (0.0, 0.75)
    )
    assert np.array_equal(good.image, bad.image)
    assert np.array_equal(good.truth["instances"], bad.truth["instances"])
    counts = [labels.count_transcripts(s).X.toarray() for s in (good, bad)]
    assert (counts[0] != counts[1]).mean() > 0.05


def test_the_usual_strength_is_the_default_of_the_tissue():
    for error, strengths in assay_errors.STRENGTHS.items():
        assert strengths[0] == 0.0
        assert strengths[1] == getattr(Effects(), error)
        assert list(strengths) == sorted(set(strengths))


@pytest.mark.parametrize("wrong", [{"error": "glare", "strength": 1}, {"error": "leakage", "strength": 4}])
def test_an_unknown_error_is_refused(wrong):
    with pytest.raises(InputError, match="expected one of misregistration_um"):
        assay_errors.cost(seed=0, **wrong)


def test_two_cells_of_the_committed_table_are_found_again():
    """Rounding differs between machines, and 130 steps make it grow: labels agree closely, scores nearly."""
    table = study.table("part1_assay_errors", GRID, assay_errors.cost, full=False)
    for cell in (
        {"error": "misregistration_um", "strength": 3, "seed": 0},
        {"error": "leakage", "strength": 3, "seed": 0},
    ):
        rows = table[np.logical_and.reduce([table[name] == level for name, level in cell.items()])]
        again = assay_errors.cost(**cell)
        for key, value in zip(rows["key"], rows["value"], strict=True):
            assert again[key] == pytest.approx(value, abs=0.003 if key.startswith("labels.") else 0.06), (cell, key)


def test_the_table_shows_what_the_notebook_says_of_it():
    table = study.table("part1_assay_errors", GRID, assay_errors.cost, full=False)
    means = table.groupby(["key", "error", "strength"])["value"].mean()
    assert means["bpq", "misregistration_um", 3] < 0.5 * means["bpq", "misregistration_um", 1]
    assert abs(means["type_f1", "leakage", 3] - means["type_f1", "leakage", 0]) < 0.06
    assert DATA_FOLDER.joinpath("results", "part1_assay_errors.json").is_file()
