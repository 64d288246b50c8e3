"""The notebooks as the book shows them: their committed outputs, a head with what they take, and alternative texts."""

from __future__ import annotations

import ast
import json
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from docs.tools import alt
from stpath_core import pairing, stages
from stpath_core.errors import StpathError

PARTS = {0: "The data", 1: "Part 1: nuclei", 2: "Part 2: expression", 3: "Part 3: recognition", 4: "Together"}
GAPS = "Notebooks that stand in no part yet"


@dataclass(frozen=True)
class Use:
    """One place where a notebook uses a public name of the library."""

    notebook: str
    heading: str  # the heading above it, "" for the top of the notebook
    code: str  # the statement
    copied: bool  # whether the cell is one to copy, which a test runs alone


def current(name: str) -> NotebookNode:
    """The committed notebook, or StpathError when it lacks outputs or they are not those of the .py beside it."""
    source = stages.home() / "notebooks" / f"{name}.py"
    path = pairing.paired(source)
    old = nbformat.read(path, as_version=4) if path.exists() else None
    new = pairing.synced(source, old)
    if old is None or pairing.contents(old) != pairing.contents(new):
        msg = f"{name}.ipynb is not in step with {name}.py: run `make sync`, then `make notebooks`"
        raise StpathError(msg)
    if new.metadata.stpath["stale"]:
        msg = f"the outputs in {name}.ipynb are stale, its code has changed: run `.venv/bin/stpath notebooks {name}`"
        raise StpathError(msg)
    return old


def collect(folder: Path, published: str) -> list[str]:
    """Write each notebook, its downloads, the table of contents and alt.json to `folder`. Returns their names."""
    names = stages.notebook_names()
    (folder / "notebooks").mkdir()
    (folder / "downloads").mkdir()
    texts: dict[str, str] = {}
    for name in names:
        nb = current(name)
        for suffix in (".ipynb", ".py"):
            shutil.copy(stages.home() / "notebooks" / f"{name}{suffix}", folder / "downloads")
        texts |= alt.texts(nb)
        nbformat.write(shown(nb, name, published), folder / "notebooks" / f"{name}.ipynb")
    (folder / "alt.json").write_text(json.dumps(texts, indent=1))
    (folder / "notebooks" / "index.md").write_text(contents(names))
    return names


def shown(nb: NotebookNode, name: str, published: str) -> NotebookNode:
    """A copy of a notebook as a page: head after the introduction, solutions folded, no error in what is left out."""
    nb = nbformat.from_dict(json.loads(json.dumps(nb)))
    cells = [cell for cell in nb.cells if cell.cell_type != "raw"]
    header = stages.find_notebook(name).header
    cells.insert(1, new_markdown_cell(head(header, name, published)))
    for cell in cells:
        if "solution" in cell.metadata.get("tags", ()):
            fold(cell)
        cell.id = cell.get("id", "head")
    nb.cells = cells
    return nb


def fold(cell: NotebookNode) -> None:
    """Hide a solution until the reader asks for it."""
    if cell.cell_type == "code":
        cell.metadata.tags = [*cell.metadata.tags, "hide-cell"]
        cell.metadata.mystnb = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
    else:
        cell.source = f"<details><summary>Show the answer</summary>\n\n{cell.source}\n\n</details>"


def head(header: dict[str, object], name: str, published: str) -> str:
    """What a reader wants to know before the first cell."""
    needs = ", ".join(f"[{other}]({stages.find_notebook(other).name}.ipynb)" for other in header.get("needs") or ())
    goals = "; ".join(header.get("goals") or ())
    kinds = {"notebook": "ipynb", "script": "py"}
    take = ", ".join(f"{{download}}`{word} (.{end}) <../downloads/{name}.{end}>`" for word, end in kinds.items())
    asked = f"[its parameters](../reference/parameters.md#{name.replace('_', '-')})"
    rows = {
        "You will": goals,
        "Reads": needs and f"the outputs of {needs}, made first if they are missing",
        "Takes": f"{header.get('time')}, {header.get('memory')} of memory",
        "Download": take,
        "Run": f"`.venv/bin/stpath run {name[:2]}`, with any of {asked}",
        "Open in": launch(published, name),
    }
    lines = [f"- **{label}:** {text}" for label, text in rows.items() if text]
    return "\n".join([":::{admonition} At a glance", ":class: at-a-glance", *lines, ":::"])


def launch(published: str, name: str) -> str:
    """Links to Colab and Binder, or "" where the project is not published. Colab takes only what GitHub serves."""
    if not published:
        return ""
    path = f"notebooks/{name}.ipynb"
    place = published.removeprefix("https://github.com/")
    on_github = place != published
    provider = f"gh/{place}" if on_github else f"git/{published.replace(':', '%3A').replace('/', '%2F')}"
    binder = f"[Binder](https://mybinder.org/v2/{provider}/HEAD?urlpath=lab/tree/{path})"
    colab = f"[Colab](https://colab.research.google.com/github/{place}/blob/main/{path})"
    first = "which want [to be told first](../howto/gpu.md#colab-and-binder) what to install"
    return f"{colab}, {binder}, {first}" if on_github else f"{binder}, {first}"


def contents(names: list[str]) -> str:
    """The page of all notebooks, by part; a new notebook finds its place by its number."""
    by_part: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_part[PARTS.get(int(name[0]), GAPS)].append(name)
    said = "Each runs by itself and makes what it needs. What you see are the outputs of a run at the cpu profile, "
    lines = ["# The notebooks", "", said + "kept with the code that made them.", ""]
    for part, members in by_part.items():
        lines += [f"## {part}", "", "```{toctree}", ":maxdepth: 1", "", *members, "```", ""]
        for name in members:
            header = stages.find_notebook(name).header
            goals = "; ".join(header.get("goals") or ())
            time = " ".join(str(header.get("time")).split()[:2])
            lines.append(f"- [{header.get('title')}]({name}.ipynb): {goals} ({time}).")
        lines.append("")
    return "\n".join(lines)


def uses(names: list[str]) -> dict[str, list[Use]]:
    """Where notebooks use each public name of the library, by its full dotted name as the notebook reaches it."""
    found: dict[str, list[Use]] = defaultdict(list)
    for name in names:
        known: dict[str, str] = {}
        heading = ""
        for cell in stages.find_notebook(name).cells:
            if cell.kind == "markdown":
                heads = [line for line in cell.source.splitlines() if line.startswith("# ## ")]
                heading = heads[-1].removeprefix("# ## ") if heads else heading
            elif cell.kind == "code" and "solution" not in cell.tags:
                for full, code in named(cell.source, known):
                    found[full].append(Use(name, heading, code, "copy-me" in cell.tags))
    return found


def named(source: str, known: dict[str, str]) -> list[tuple[str, str]]:
    """Names of the library that a cell uses, each with the statement; `known` holds what was imported so far."""
    pairs = []
    for statement in ast.parse(source).body:
        for node in ast.walk(statement):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stpath_core"):
                known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        if isinstance(statement, ast.ImportFrom | ast.Import):
            continue
        code = ast.get_source_segment(source, statement) or ""
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
                pairs.append((f"{known[node.value.id]}.{node.attr}", code))
            elif isinstance(node, ast.Name) and node.id in known:
                pairs.append((known[node.id], code))
    return pairs
