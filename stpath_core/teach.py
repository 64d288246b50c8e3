"""Two versions of a lesson from one source: the student's without solutions, the instructor's with all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from stpath_core import pairing, run, stages
from stpath_core.checks import check_folder
from stpath_core.io.files import atomic_path

EMPTY = "# your answer; the notebook runs on whether this cell is filled or not"
ASIDE = "> *Solution, not in the students' version:*"


def student(nb: NotebookNode) -> NotebookNode:
    """The lesson without solutions: an empty cell to fill in after each exercise, and no outputs.

    Without outputs the questions "before you run the next cell" stay open as well.
    """
    cells: list[NotebookNode] = []
    for cell in nb.cells:
        if "solution" in cell.metadata.get("tags", ()):
            continue
        kept = nbformat.from_dict(cell)
        if kept.cell_type == "code":
            kept.outputs, kept.execution_count = [], None
        cells.append(kept)
        if "exercise" in kept.metadata.get("tags", ()):
            answer = nbformat.v4.new_code_cell(EMPTY, metadata={"tags": ["answer"]}, id=f"{kept.id}-answer")
            cells.append(answer)
    return _with_cells(nb, cells)


def instructor(nb: NotebookNode) -> NotebookNode:
    """The lesson as it is, outputs included, with a line before each run of solutions that says so."""
    cells: list[NotebookNode] = []
    inside = False
    for cell in nb.cells:
        solves = "solution" in cell.metadata.get("tags", ())
        if solves and not inside:
            cells.append(nbformat.v4.new_markdown_cell(ASIDE, id=f"{cell.id}-aside"))
        inside = solves
        cells.append(nbformat.from_dict(cell))
    for cell in cells:
        begins = cell.cell_type == "markdown" and cell.source.startswith("#")
        kind = "skip" if cell.cell_type == "raw" else "slide" if begins else "subslide"
        cell.metadata.slideshow = nbformat.NotebookNode(slide_type=kind)
    return _with_cells(nb, cells)


def write(names: Sequence[str], to: str | Path, *, say: Callable[[str], None] = print) -> list[Path]:
    """Write TO/student/NAME.ipynb and TO/instructor/NAME.ipynb of notebooks, from their .py and the outputs kept.

    names : numbers or names of notebooks, or "all". Solutions are in no file below TO/student, not even in metadata.
    """
    wanted = stages.notebook_names() if "all" in names else [stages.find_notebook(name).name for name in names]
    folder = Path(to).expanduser().resolve()
    check_folder(folder)
    written = []
    for name in wanted:
        source = stages.home() / "notebooks" / f"{name}.py"
        pair = pairing.paired(source)
        lesson = pairing.synced(source, nbformat.read(pair, as_version=4) if pair.exists() else None)
        for version in (student, instructor):
            path = folder / version.__name__ / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as aside:
                aside.write_text(nbformat.writes(version(lesson)) + "\n", encoding="utf-8")
            written.append(path)
            say(f"wrote {run.shown(path)}")
    return written


def _with_cells(nb: NotebookNode, cells: list[NotebookNode]) -> NotebookNode:
    """A notebook of these cells. jupytext is told nothing: a version is a copy to work in, not half of a pair."""
    metadata = {"kernelspec": run.KERNELSPEC, "language_info": {"name": "python"}}
    made = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    made.nbformat_minor = nb.nbformat_minor
    return made
