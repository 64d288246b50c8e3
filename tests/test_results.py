"""Committed studies are whole, say where they come from, and hold what the notebooks show of them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from stpath_core.io.registry import DATA_FOLDER

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import study_part1
from study_part1 import KEYS, TYPING_KEYS, rows_of, runs

from conftest import ROOT
from stpath_core import manifest, slide_study, stages


def test_the_study_of_part_1_has_every_key_of_every_run_and_its_revision():
    table = pd.read_csv(DATA_FOLDER / "results" / "part1_seeds.csv", dtype={"revision": str})
    found = {run: rows for run, rows in table.groupby(["seed", "training_seed"])}
    assert sorted(found) == runs()
    assert len({training for seed, training in runs() if seed == 2}) == 3
    for (seed, training), rows in found.items():
        assert sorted(rows["key"]) == sorted((*TYPING_KEYS, *KEYS) if seed == training else KEYS)
        assert rows["revision"].nunique() == rows["day"].nunique() == 1
    assert table["revision"].str.fullmatch("[0-9a-f]{12}").all()
    assert table["value"].notna().all()


def test_the_leads_are_differences_of_the_means_they_stand_beside():
    table = pd.read_csv(DATA_FOLDER / "results" / "part1_seeds.csv")
    table = table.pivot(index=["seed", "training_seed"], columns="key", values="value")
    for rival, name in (("part1.labels.fine_abstain", "fine_merged"), ("part1.unseen.type_f1.recipe", "recipe")):
        lead = table["part1.labels.merged_abstain"] - table[rival]
        # pooled by organ in the means, image by image in the lead: alike, not equal
        assert (lead - table[f"part1.labels.over_{name}"]).abs().max() < 0.02


def test_rows_of_a_study_come_from_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(study_part1, "folder_of", lambda seed, training: tmp_path)
    every = (*TYPING_KEYS, *KEYS)
    manifest.write_json(tmp_path / "latest" / "metrics.json", {key: k / 8 for k, key in enumerate(every)})
    for name, status, day in (("x", "complete", 2), ("w", "complete", 1), ("y", "failed", 3)):
        run = {"git": {"revision": "a" * 40}, "begun": f"2026-01-0{day}T03:04:05", "status": status}
        manifest.write_json(tmp_path / f"{name}-14_nuclei_claims-virtual" / "manifest.json", run)
    rows = rows_of(3, 3)
    assert rows[1] == [3, 3, every[1], "0.1250", "a" * 12, "2026-01-02"]
    assert len(rows) == len(every)
    assert [row[2] for row in rows_of(2, 0)] == list(KEYS)  # typing has no training seed


def test_notebooks_name_the_studies_they_show():
    """A table that is not named is not in the key of the outputs, which would be kept when the table changes."""
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py")):
        notebook = stages.read_notebook(path)
        code = "\n".join(notebook.code)
        named = set(notebook.header.get("tables") or ())
        shown = {p.stem for p in (DATA_FOLDER / "results").glob("*.*") if re.search(rf"\b{p.stem}\b", code)}
        shown |= set(slide_study.GRIDS) if "slide_study.GRIDS" in code else set()
        assert shown <= named, path.stem
