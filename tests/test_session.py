"""Cells of a notebook that ask for data which the data set does not hold are passed over, and say so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from stpath_core import session, stages

CELL = "import a\n\n# only for dataset=virtual, her2st\n# inputs: x\nb = x\n"


@pytest.fixture
def cells(monkeypatch):
    """What becomes of a cell in a session that has begun with these data sets, one after the other."""

    def after(*datasets):
        manager = TransformerManager()
        shell = SimpleNamespace(input_transformers_cleanup=manager.cleanup_transforms)
        monkeypatch.setattr(session, "_shell", lambda: shell)
        for dataset in datasets:
            session.skip_cells_of_other_data(dataset)
        return manager.transform_cell

    return after


@pytest.mark.parametrize("dataset", ["virtual", "her2st"])
def test_a_cell_runs_where_its_data_set_is_named(cells, dataset):
    assert cells(dataset)(CELL) == CELL


def test_another_cell_is_passed_over_and_says_for_whom_it_is(cells, capsys):
    exec(cells("slides")(CELL))
    assert capsys.readouterr().out == "passed over: this cell is for dataset=virtual or her2st\n"


def test_a_cell_without_the_line_runs_for_all_and_the_last_begin_counts(cells):
    assert cells("slides")("b = 1  # only for dataset=virtual\n") == "b = 1  # only for dataset=virtual\n"
    assert cells("slides", "virtual")(CELL) == CELL
    assert "passed over" in cells("virtual", "slides")(CELL)


def test_outside_ipython_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(session, "_shell", lambda: None)
    session.skip_cells_of_other_data("slides")


def test_cells_name_only_data_sets_that_their_notebook_serves(monkeypatch):
    monkeypatch.delenv("STPATH_HOME", raising=False)
    seen = 0
    for notebook in map(stages.find_notebook, stages.notebook_names()):
        for found in filter(None, map(session.ONLY.search, notebook.code)):
            seen += 1
            assert set(found[1].split(", ")) < set(notebook.header["datasets"]), notebook.name
    assert seen
