"""The committed studies of Part 3: some of their cells are made again, from the tissue's seed to the scores."""

from __future__ import annotations

import pytest

from conftest import VERSIONS
from stpath_core import recognition_study as rs
from stpath_core import study
from stpath_core.recognition_arms import ARMS

CLOSE = 0.01
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VERSIONS != "locked", reason="other versions round otherwise, and a network trains elsewhere"),
]


def compared(found, rows, arms):
    """The scores of `arms` beside the committed ones of the same cell."""
    kept = dict(zip(rows["key"], rows["value"], strict=True))
    again = {key: value for key, value in found.items() if key.split(".")[0] in arms or key.rsplit(".", 1)[0] in arms}
    assert len(again) == len(arms) * (2 + 8)  # pooled, mean and eight patients
    return again, {key: kept[key] for key in again}


def test_two_cells_of_the_committed_grid_are_found_again():
    table = study.table("part3_grid", rs.GRID_STUDY, rs.run_grid, full=False)
    arms = {name: rs.grid_arms()[name] for name in ("pca.identity",)}
    for tissue in (0, 3):
        again, kept = compared(rs.run_tissue(tissue, arms), table[table.tissue == tissue], arms)
        assert again == pytest.approx(kept, abs=CLOSE), tissue


def test_two_cells_of_the_committed_study_of_strength_are_found_again():
    table = study.table("part3_strength", rs.STRENGTH_STUDY, rs.run_strength, full=False)
    for strength, confounding in ((2.0, 0.0), (1.0, 1.0)):
        cell = (table.tissue == 1) & (table.strength == strength) & (table.confounding == confounding)
        arms = {"raw_clip": ARMS["raw_clip"]}
        found = rs.run_tissue(1, arms, strength=strength, confounding=confounding)
        again, kept = compared(found, table[cell], arms)
        assert again == pytest.approx(kept, abs=CLOSE), (strength, confounding)
