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
TEMPLATES = Path(__file__).parent / "templates"
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


def write(
    names: Sequence[str],
    to: str | Path,
    *,
    versions: Sequence[Callable[[NotebookNode], NotebookNode]] = (student, instructor),
    slides: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write TO/student/NAME.ipynb and TO/instructor/NAME.ipynb of notebooks, from their .py and the outputs kept.

    names : numbers or names of notebooks, or "all". Solutions are in no file below TO/student, not even in metadata.
    slides : write TO/slides/NAME.html, the instructor's version as a deck, too
    """
    wanted = stages.notebook_names() if "all" in names else [stages.find_notebook(name).name for name in names]
    folder = stages.absolute(to)
    check_folder(folder)
    written = []
    for name in wanted:
        source = stages.home() / "notebooks" / f"{name}.py"
        pair = pairing.paired(source)
        lesson = pairing.synced(source, nbformat.read(pair, as_version=4) if pair.exists() else None)
        texts = {f"{version.__name__}/{name}.ipynb": nbformat.writes(version(lesson)) + "\n" for version in versions}
        if slides:
            texts[f"slides/{name}.html"] = deck(instructor(lesson), str(stages.find_notebook(name).header.get("title")))
        for place, text in texts.items():
            with atomic_path(folder / place) as aside:
                aside.write_text(text, encoding="utf-8")
            written.append(folder / place)
            say(f"wrote {run.shown(folder / place)}")
    return written


def deck(nb: NotebookNode, title: str) -> str:
    """Slides as one HTML file that runs no script and loads nothing: a screen a slide, moved through by scrolling.

    nb : an instructor's version, executed or not. nbconvert cuts it where its cells say so.
    """
    from nbconvert import SlidesExporter

    exporter = SlidesExporter(extra_template_basedirs=[str(TEMPLATES)], template_name="deck")
    nb = nbformat.from_dict(nb)
    nb.metadata.title = title
    text, _ = exporter.from_notebook_node(nb)
    return text


def _with_cells(nb: NotebookNode, cells: list[NotebookNode]) -> NotebookNode:
    """A notebook of these cells. jupytext is told nothing: a version is a copy to work in, not half of a pair."""
    metadata = {"kernelspec": run.KERNELSPEC, "language_info": {"name": "python"}}
    made = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    made.nbformat_minor = nb.nbformat_minor
    return made
