"""Studies: computed once, kept cell by cell, committed whole, and read only as what they are."""

from __future__ import annotations

import pandas as pd
import pytest

from stpath_core import study
from stpath_core.errors import InputError

GRID = {"niche": [0.0, 0.5], "seed": [0, 1, 2]}
CALLS: list[tuple] = []


def product(niche, seed):
    CALLS.append((niche, seed))
    return {"scc": niche * seed, "undefined": float("nan")}


def breaks(niche, seed):
    CALLS.append((niche, seed))
    if len(CALLS) == 4:
        raise KeyboardInterrupt
    return {"scc": niche * seed}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(study, "results_folder", lambda: tmp_path / "results")
    CALLS.clear()
    return tmp_path / "results"


def test_a_full_study_computes_every_combination_and_the_table_is_read_again(folders):
    made = study.table("toy", GRID, product, full=True)
    assert len(CALLS) == 6
    assert list(made.columns) == ["niche", "seed", "key", "value", "revision", "day"]
    scc = made[made["key"] == "scc"]
    assert (scc["value"] == scc["niche"] * scc["seed"]).all()
    assert made[made["key"] == "undefined"]["value"].isna().all()
    read = study.table("toy", GRID, product, full=False)
    assert len(CALLS) == 6
    pd.testing.assert_frame_equal(read, made, check_dtype=False)


def test_an_interrupted_study_goes_on_and_writes_only_when_whole(folders):
    with pytest.raises(KeyboardInterrupt):
        study.table("toy", GRID, breaks, full=True)
    assert not folders.exists()
    study.table("toy", GRID, breaks, full=True)
    assert [*study_runs()[:4], *study_runs()[3:]] == CALLS


def study_runs():
    return [tuple(run.values()) for run in study.combinations(GRID)]


def test_another_cell_is_computed_anew():
    study.table("toy", GRID, product, full=True)
    study.table("toy", GRID, lambda niche, seed: CALLS.append(1) or {"scc": 0.0}, full=True)
    assert CALLS[6:] == [1] * 6


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"niche": []}, "give at least one"),
        ({"niche": [0.1, 0.1]}, "each once"),
        ({"value": [1]}, "other than key"),
        ({"niche": [0.0]}, "no committed study"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(grid, said):
    with pytest.raises(InputError, match=said):
        study.table("toy", grid, product, full=False)


def test_a_table_of_another_grid_is_refused():
    study.table("toy", GRID, product, full=True)
    with pytest.raises(InputError, match="make it anew"):
        study.table("toy", GRID | {"seed": [0]}, product, full=False)
