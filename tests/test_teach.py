"""Students get no solution and a notebook that runs; instructors get everything."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import nbformat
import papermill
import pytest

from conftest import ROOT
from stpath_core import cli, manifest, pairing, stages, teach

SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
BODY = """x = 1

# %% [markdown] tags=["exercise"]
# ### Exercise 1
# What is two and two?

# %% tags=["solution"]
secret = 2 + 2

# %% [markdown] tags=["solution"]
# It is four.

# %% [markdown] tags=["exercise"]
# ### Exercise 2
# Why?

# %% tags=["solution"]
print("because")"""


def versions(toys, tmp_path):
    toys.add("10_one", BODY)
    assert cli.main(["teach", "10", "--to", str(tmp_path / "course")]) == cli.OK
    return [nbformat.read(tmp_path / "course" / who / "10_one.ipynb", 4) for who in ("student", "instructor")]


def test_students_get_an_empty_cell_for_each_exercise_and_no_solution(toys, tmp_path):
    student, instructor = versions(toys, tmp_path)
    for nb in (student, instructor):
        nbformat.validate(nb)
    texts = [cell.source for cell in student.cells]
    assert texts.count(teach.EMPTY) == 2
    assert texts[texts.index("### Exercise 2\nWhy?") + 1] == teach.EMPTY
    assert not any(word in json.dumps(student) for word in ("secret", "four", "because"))
    told = [cell.source for cell in instructor.cells]
    assert told.count(teach.ASIDE) == 2  # a run of solutions is announced once
    assert told[told.index(teach.ASIDE) + 1] == "secret = 2 + 2"


def test_the_instructors_version_is_slides(toys, tmp_path):
    """A heading begins a slide, what follows lies below it: nbconvert makes a deck of it."""
    _, instructor = versions(toys, tmp_path)
    kinds = [cell.metadata.slideshow.slide_type for cell in instructor.cells if cell.cell_type != "raw"]
    assert kinds == ["slide", *["subslide"] * 3, "slide", *["subslide"] * 3, "slide", *["subslide"] * 3]
    path = tmp_path / "course" / "instructor" / "10_one.ipynb"
    words = [sys.executable, "-m", "nbconvert", "--to", "slides", "--log-level", "ERROR", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    assert path.with_name("10_one.slides.html").read_text().count("<section>") >= 3 + len(kinds)


def test_the_deck_loads_nothing_and_runs_no_script(toys, tmp_path):
    toys.add("10_one", 'print("<script>alert(1)</script>")')
    assert cli.main(["teach", "10", "--to", str(tmp_path / "course"), "--slides"]) == cli.OK
    text = (tmp_path / "course" / "slides" / "10_one.html").read_text()
    assert text.count("<section") >= 4
    assert "<script" not in text
    assert not re.findall(r"""(?:src|href)=["']?(?!["']|data:|#)[^>]+""", text)
    assert not re.findall(r"url\((?!['\"]?data:)|@import", text)


def test_a_students_version_runs_with_its_exercises_unanswered(toys, tmp_path):
    versions(toys, tmp_path)
    path = tmp_path / "course" / "student" / "10_one.ipynb"
    papermill.execute_notebook(path, tmp_path / "done.ipynb", kernel_name="python3", progress_bar=False)
    assert [manifest.read_json(run / "manifest.json")["status"] for run in toys.runs] == ["complete"]


def test_an_unknown_notebook_or_a_folder_that_cannot_be_made_is_one_clear_error(toys, tmp_path, capsys):
    toys.add("10_one", BODY)
    assert cli.main(["teach", "99", "--to", str(tmp_path / "course")]) == cli.USAGE
    assert not (tmp_path / "course").exists()
    (tmp_path / "file").write_text("x")
    assert cli.main(["teach", "10", "--to", str(tmp_path / "file")]) == cli.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_later_cell_of_a_lesson_needs_a_solution(source):
    """What a solution alone defines is used by solutions alone, so the students' version runs to its end."""
    import ast

    def names(cell, context):
        nodes = list(ast.walk(ast.parse(cell)))
        found = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, context)}
        if context is ast.Store:
            brought = [alias for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names]
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in brought}
            found |= {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
        return found

    cells = [cell for cell in stages.read_notebook(source).cells if cell.kind == "code"]
    kept = [cell.source for cell in cells if "solution" not in cell.tags]
    first = min(k for k, cell in enumerate(cells) if "solution" in cell.tags)
    after = [cell.source for cell in cells[first:] if "solution" not in cell.tags]
    solved = set().union(*(names(cell.source, ast.Store) for cell in cells if "solution" in cell.tags))
    made = set().union(*(names(cell, ast.Store) for cell in kept))
    needed = set().union(*(names(cell, ast.Load) for cell in after)) if after else set()
    assert not needed & (solved - made)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_students_of_every_lesson_see_neither_solution_nor_output(source):
    lesson = pairing.synced(source, nbformat.read(pairing.paired(source), 4))
    text = json.dumps(teach.student(lesson))
    solutions = [cell.source for cell in lesson.cells if "solution" in cell.metadata.get("tags", ())]
    assert solutions
    assert not any(json.dumps(solution)[1:-1] in text for solution in solutions)
    assert not any(cell.get("outputs") for cell in teach.student(lesson).cells)
    # Nor a line of one, nor a line that it printed: what stands elsewhere in the lesson anyway is no solution.
    solving = [cell for cell in lesson.cells if "solution" in cell.metadata.get("tags", ())]
    elsewhere = "\n".join(cell.source for cell in lesson.cells if cell not in solving)
    printed = [out.get("text", "") for cell in solving for out in cell.get("outputs", ())]
    lines = [line.strip() for said in (*solutions, *printed) for line in said.splitlines()]
    telling = [line for line in lines if len(line) > 25 and not line.startswith(("import ", "from "))]
    student = "\n".join(cell.source for cell in teach.student(lesson).cells)
    assert not [line for line in telling if line in student and line not in elsewhere]
