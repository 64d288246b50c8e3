"""Checks of exercises answer at once, survive any answer, and never say what would be right."""

from __future__ import annotations

import ast

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch

from conftest import ROOT
from stpath_core import pairing, stages, teach
from stpath_core.exercises import check_answer, named, seal, sealed, within

SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
CHECKED = [path for path in SOURCES if 'tags=["check"]' in path.read_text()]
RISES = (lambda found: found["b"] > found["a"], "b lies above a")


def said(capsys, name, variables, *rules):
    check_answer(name, variables, *rules)
    return capsys.readouterr().out


@pytest.mark.parametrize("empty", [{}, {"x": None}, {"x": ...}, {"x": {}}, {"x": ""}, {"x": pd.DataFrame()}])
def test_an_exercise_nobody_touched_is_not_done_yet(capsys, empty):
    assert said(capsys, "x", empty, named("a", "b")) == "x: not done yet\n"


def test_the_hint_of_the_first_broken_rule_is_told_and_a_whole_answer_is_right(capsys):
    rules = named("a", "b"), within(0, 1), RISES
    for answer, told in (
        ({"a": 0.1}, "not yet: one value for each of a, b"),
        ({"a": 0.1, "b": 7}, "not yet: every number in it lies between 0 and 1"),
        ({"a": 0.2, "b": 0.1}, "not yet: b lies above a"),
        ({"a": 0.1, "b": 0.2}, "right"),
        (pd.Series({"a": 0.1, "b": 0.2}), "right"),
        ({"a": np.array([0.1, 0.3]), "b": np.array([0.2, 0.3])}, "not yet: b lies above a"),  # in every element
    ):
        assert said(capsys, "x", {"x": answer}, *rules) == f"x: {told}\n"


@pytest.mark.parametrize(
    "answer",
    [
        object(),
        "no",
        3,
        [1, 2],
        {"a": "b"},
        np.zeros(3),
        np.array(3.0),
        torch.tensor(3.0),
        pd.DataFrame({"a": [1]}),
        len,
        list,
    ],
)
def test_no_answer_stops_the_notebook(capsys, answer):
    for rule in (named("a", "b"), RISES, (sealed(seal(4)), "count again")):
        assert said(capsys, "x", {"x": answer}, rule) == f"x: not yet: {rule[1]}\n"


def test_undefined_numbers_lie_nowhere(capsys):
    for answer in (0.5, [0.5, np.nan], pd.DataFrame({"a": [0, 1], "b": [np.nan, 1 + 1e-9]})):
        assert said(capsys, "x", {"x": answer}, within(0, 1)) == "x: right\n"
    assert "not yet" in said(capsys, "x", {"x": [np.nan, -0.1]}, within(0, 1))


def test_a_seal_knows_the_answer_and_does_not_show_it():
    mark = seal((0.5556, 1.9048), digits=1)
    assert sealed(mark, digits=1)([0.6, 1.9])
    assert sealed(mark, digits=1)(np.array([0.55, 1.94]))
    assert not sealed(mark, digits=1)([1.9, 0.6])
    assert not sealed(mark, digits=1)([0.6])
    assert mark != seal((0.5556, 1.9048), digits=1), "two lessons with one answer look alike"
    assert sealed(seal("Registration"))(" registration ")
    assert sealed(seal(0.0, digits=2), digits=2)(-0.001)


def test_most_lessons_and_every_part_have_a_check():
    assert {path.stem[0] for path in CHECKED} == {"0", "1", "2", "3", "4"}
    assert len(CHECKED) >= 13


@pytest.mark.parametrize("source", [*CHECKED, ROOT / "docs" / "notebook_template.py"], ids=lambda path: path.stem)
def test_what_is_checked_is_asked_for_by_name_and_made_by_the_solution_alone(source):
    """The exercise names the variable; no other cell makes it, or an untouched exercise would not look untouched."""
    cells = stages.read_notebook(source).cells
    for place, cell in enumerate(cells):
        if "check" not in cell.tags:
            continue
        assert cells[place - 1].tags == ("solution",)
        exercise = next(c.source for c in reversed(cells[:place]) if "exercise" in c.tags)
        calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
        calls = [call for call in calls if getattr(call.func, "id", "") == "check_answer"]
        assert calls
        for call in calls:
            name = call.args[0].value
            assert f"`{name}`" in exercise
            assert name in stored(cells[:place], solving=True)
            assert name not in stored(cells, solving=False)


@pytest.mark.parametrize("source", CHECKED, ids=lambda path: path.stem)
def test_solutions_passed_their_checks_when_the_outputs_were_made(source):
    nb = nbformat.read(pairing.paired(source), 4)
    if nb.metadata.stpath["stale"]:
        pytest.skip("its outputs are stale, which another test says")
    told = [out.text for cell in nb.cells if "check" in cell.metadata.get("tags", ()) for out in cell.outputs]
    assert told
    assert all(line.endswith(": right") for text in told for line in text.splitlines())


def stored(cells, *, solving):
    """The names that solutions, or all other cells, assign."""
    code = [c.source for c in cells if c.kind == "code" and ("solution" in c.tags) == solving]
    nodes = [node for text in code for node in ast.walk(ast.parse(text))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_untouched_then_wrong_then_solved(tmp_path, monkeypatch, no_network):
    """A student's version of a real lesson: it runs to its end, and each state is told in its words."""
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path / "cache"))
    name = "01_bring_your_own_data"
    source = ROOT / "notebooks" / f"{name}.py"
    lesson = pairing.read_source(source)
    nb = teach.student(lesson)
    first = next(cell for cell in nb.cells if "answer" in cell.metadata.get("tags", ()))
    first.source = "factors = 0.7453, 1.3801  # as if areas grew with the factor"
    checks = [cell.source for cell in nb.cells if "check" in cell.metadata.get("tags", ())]
    solutions = [c.source for c in lesson.cells if "solution" in c.metadata.get("tags", ()) and c.cell_type == "code"]
    added = [nbformat.v4.new_code_cell(text) for text in (*solutions, *checks)]
    nb.cells[-1:-1] = added
    values = {"profile": "smoke", "out": str(tmp_path / "runs")}
    done = papermill.execute_notebook(nb, None, values, kernel_name="python3", progress_bar=False)
    told = ["".join(out.text for out in cell.outputs) for cell in done.cells if cell.source in checks]
    assert told[0] == "factors: not yet: a diameter grows with the factor itself, an area with its square\n"
    assert told[1:] == ["stopped_by: not done yet\n", "factors: right\n", "stopped_by: right\n"]
