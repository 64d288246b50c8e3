"""An archive of slides goes through notebooks 20 to 22: held-out patients predicted and scored, under its own name."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pytest

from stpath_core import manifest, run, slide_cohorts, tissue
from stpath_core.errors import InputError
from stpath_core.tissue.assays import write_table

GIVEN = {"dataset": "slides", "profile": "smoke"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Six virtual slides, and single cells of other donors."""
    folder = tmp_path_factory.mktemp("archive")
    slide_cohorts.write_slides(folder, tissue.slide_cohort(6, common_stain=True))
    write_table(folder / "reference.h5ad", tissue.reference(2, size_um=(300, 300)))
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch, no_network):
    """The project's notebooks on a cache of their own, cut off the network."""
    del no_network
    monkeypatch.delenv("STPATH_HOME", raising=False)
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "runs"


@pytest.mark.slow
def test_an_archive_is_predicted_and_judged_and_nothing_is_said_of_spots(archive, home):
    planned = run.plan(["20", "21", "22"], GIVEN | {"data_dir": str(archive), "out": str(home)})
    ended = run.run_planned(planned, quiet_cells=True)
    assert [one.status for one in ended] == ["ok"] * 3, [one.message for one in ended]
    assert all(manifest.read_json(one.folder / "manifest.json")["exact"] for one in ended)
    told = json.loads((ended[2].folder / "metrics.json").read_text())
    assert all(key.startswith("part2.slides.") for key in told)
    methods = {key.split(".")[3] for key in told if key.startswith("part2.slides.scc.")}
    assert methods == {"mean", "density", "ridge", "mospr", "abmil", "no_prototype", "cpnn", "beyond", "shuffled"}
    assert told["part2.slides.scc.mean"] is None
    for key in ("scc.cpnn", "scc.shuffled", "beyond_over_ridge.scc"):
        lo, value, hi = (told[f"part2.slides.{key}{end}"] for end in (".lo", "", ".hi"))
        assert np.isfinite([lo, value, hi]).all()
        assert lo <= hi
    assert "part2.slides.coverage_80" in told
    cells = nbformat.read(ended[2].folder / "22_cpnn_evaluate.ipynb", 4).cells
    for cell in (c for c in cells if "# only for dataset=virtual, her2st" in c.source):
        assert "".join(out.text for out in cell.outputs) == "passed over: this cell is for dataset=virtual or her2st\n"
    assert not list((ended[1].folder / "figures").glob("*"))


def test_a_notebook_of_spots_names_those_that_serve_slides(archive):
    with pytest.raises(InputError, match=r"for slides run .*20_prototypes, 21_cpnn_train, 22_cpnn_evaluate"):
        run.plan(["23"], GIVEN | {"data_dir": str(archive)})
