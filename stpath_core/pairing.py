"""Pairs: notebooks/NN_name.py is the source of truth, NN_name.ipynb the same cells with outputs.

Pairs are compared by content, never by time stamps. `metadata.stpath` of an .ipynb holds `outputs_of`, the hash of
the code cells that made the outputs (null when there are none), and `stale`, whether the code has changed since.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from stpath_core import manifest, run, stages
from stpath_core.errors import InputError, StpathError
from stpath_core.io.files import atomic_path

MAX_BYTES = 1_500_000
# So that Jupyter, too, keeps a pair together when it saves, and adds nothing to the .py.
JUPYTEXT = {"formats": "ipynb,py:percent", "notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"}


def paired(source: Path) -> Path:
    """The .ipynb of a .py."""
    return source.with_suffix(".ipynb")


def read_source(source: Path) -> NotebookNode:
    """The cells of a .py, without outputs, with cell ids that only depend on their content and place."""
    nb = jupytext.read(source)
    stpath = {"outputs_of": None, "stale": True}
    nb.metadata = NotebookNode(
        kernelspec=run.KERNELSPEC, language_info={"name": "python"}, jupytext=JUPYTEXT, stpath=stpath
    )
    nb.nbformat, nb.nbformat_minor = 4, 5
    for place, cell in enumerate(nb.cells):
        cell.id = hashlib.sha256(f"{source.stem} {place} {cell.source}".encode()).hexdigest()[:8]
    return nb


def contents(nb: NotebookNode) -> list[tuple[str, str, tuple[str, ...]]]:
    """What a pair must agree on: each cell's kind, text and tags."""
    return [(cell.cell_type, cell.source.strip("\n"), tuple(cell.metadata.get("tags", ()))) for cell in nb.cells]


def code_hash(nb: NotebookNode) -> str:
    """Hash of the code cells, in order: prose may be mended without running the notebook again."""
    code = [source for kind, source, _ in contents(nb) if kind == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def synced(source: Path, old: NotebookNode | None) -> NotebookNode:
    """The cells of a .py with the ids of `old`'s cells and the outputs of those code cells that have not changed."""
    nb = read_source(source)
    if old is None:
        return nb
    before, after = contents(old), contents(nb)
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for then, now in zip(old.cells[i:i_end], nb.cells[j:j_end], strict=False):
            if then.cell_type == now.cell_type:
                now.id = then.id
                if tag == "equal" and now.cell_type == "code":
                    now.outputs, now.execution_count = then.outputs, then.execution_count
    ids = [cell.id for cell in nb.cells]
    for place, cell in enumerate(nb.cells):
        if ids.index(cell.id) < place:
            cell.id = f"{cell.id}-{place}"
    made_by = old.metadata.get("stpath", {}).get("outputs_of")
    nb.metadata.stpath = {"outputs_of": made_by, "stale": made_by != code_hash(nb)}
    return nb


def sync_all(*, check: bool = False, say: Callable[[str], None] = print) -> bool:
    """Bring every .ipynb up to its .py, or with `check` only say which differ. Returns whether all was well."""
    well = True
    for name in stages.notebook_names():
        source = stages.home() / "notebooks" / f"{name}.py"
        old = _read_pair(paired(source))
        new = synced(source, old)
        same = old is not None and nbformat.writes(old).strip() == nbformat.writes(new).strip()
        if not same and not check:
            write_pair(new, paired(source))
        stale = "its outputs are stale: run `stpath notebooks`" if new.metadata.stpath["stale"] else ""
        state = "in step" if same else ("differs: run `stpath sync`" if check else "written")
        say(f"{name}: {', '.join(filter(None, (state, stale)))}")
        well = well and not (check and (not same or stale))
    for pair in sorted((stages.home() / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        if not pair.with_suffix(".py").exists():
            say(f"{pair.name}: has no .py; delete it, or write it back with jupytext")
            well = False
    return well


def fill(names: Sequence[str], *, reuse: bool = False, say: Callable[[str], None] = print) -> list[run.Outcome]:
    """Run notebooks at the cpu profile; keep their outputs, with the hash of the code that made them, in the .ipynb.

    reuse : take the outputs of a run (of `make tutorial`, say) whose code, inputs and parameters are unchanged.
    """
    planned = run.plan(names, {"profile": "cpu"})
    outcomes = run.run_planned(planned, reuse=reuse, say=say)
    for k, one in enumerate(planned[: len(outcomes)]):
        copy = (outcomes[k].folder or stages.home()) / f"{one.notebook.name}.ipynb"
        if outcomes[k].status == "reused" and not copy.is_file():  # a session in Jupyter leaves no copy
            outcomes[k] = run.run_planned([one], say=say)[0]
            copy = (outcomes[k].folder or stages.home()) / copy.name
        outcome = outcomes[k]
        if outcome.status not in ("ok", "reused"):
            continue
        source = one.notebook.path
        executed = nbformat.read(copy, as_version=4)
        write_measures(source, manifest.read_json(outcome.folder / "manifest.json"))
        pair = with_outputs(synced(source, _read_pair(paired(source))), executed)
        write_pair(pair, paired(source))
        say(f"{one.notebook.name}: outputs kept, {paired(source).stat().st_size / 1e6:.2f} MB")
    write_readme_table(stages.home())
    return outcomes


def with_outputs(nb: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """`nb` with the outputs of an executed copy of the same cells. Raises StpathError when their code differs."""
    ran = [
        c for c in executed.cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", ())
    ]
    mine = [cell for cell in nb.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in mine]:
        msg = "the notebook was edited while it ran; run `stpath notebooks` again"
        raise StpathError(msg)
    for count, (cell, source) in enumerate(zip(mine, ran, strict=True), start=1):
        cell.outputs, cell.execution_count = [_without_paths(output) for output in source.outputs], count
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = count
    nb.metadata.stpath = {"outputs_of": code_hash(nb), "stale": False}
    return nb


def write_pair(nb: NotebookNode, path: Path) -> None:
    """Write an .ipynb, refusing one that is too large to read and to keep in git."""
    text = nbformat.writes(nb) + "\n"
    size = len(text.encode())
    if size > MAX_BYTES:
        sizes = [len(json.dumps(cell.get("outputs", []))) for cell in nb.cells]
        largest = nb.cells[sizes.index(max(sizes))].source.splitlines()[:1]
        where = f"the largest outputs are those of the cell that starts with {largest}"
        msg = f"{path.name} would have {size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6} MB are kept; {where}"
        raise InputError(msg)
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_measures(source: Path, record: dict[str, Any]) -> None:
    """Write the measured time and memory into a notebook's header, where they are prose and change no hash."""
    text = source.read_text(encoding="utf-8")
    cores = record["machine"]["cores"]
    measured = {
        "time": f"{record['seconds']:.0f} s (cpu profile, {cores} cores)",
        "memory": f"{record['peak']['ram_gb']:.1f} GB",
    }
    for name, value in measured.items():
        text = re.sub(rf"^# {name}:.*$", f"# {name}: {value}", text, count=1, flags=re.MULTILINE)
    with atomic_path(source) as aside:
        aside.write_text(text, encoding="utf-8")


def write_readme_table(home: Path) -> None:
    """Bring README's table of notebooks up to their headers: a row each, time and memory as measured.

    What a notebook asks is prose and stays; a new notebook's row has its title there. A folder without README, or a
    README without the table, stays as it is.
    """
    path = home / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    table = re.search(r"^(\| notebook \|.*\n\|[-|]+\|\n)((?:\|.*\n)*)", text, flags=re.MULTILINE)
    if table is None:
        return
    asks = dict(re.findall(r"^\| (\d\d_\w+) \| (.*?) \|", table[2], flags=re.MULTILINE))
    rows = []
    for name in stages.notebook_names():
        header = stages.find_notebook(name).header
        time, memory = (" ".join(str(header.get(key, "")).split()[:2]) for key in ("time", "memory"))
        rows.append(f"| {name} | {asks.get(name, header.get('title', ''))} | {time} | {memory} |\n")
    if (new := text[: table.end(1)] + "".join(rows) + text[table.end() :]) != text:
        with atomic_path(path) as aside:
            aside.write_text(new, encoding="utf-8")


def _read_pair(path: Path) -> NotebookNode | None:
    return nbformat.read(path, as_version=4) if path.exists() else None


def _without_paths(output: NotebookNode) -> NotebookNode:
    """An output in which paths of this machine are written relative to the project, the home, or the temp folder."""
    names = {f"{stages.home()}/": "", str(stages.home()): ".", tempfile.gettempdir(): "TMP", str(Path.home()): "~"}

    def clean(text: Any) -> Any:
        if isinstance(text, str):
            for path, short in names.items():
                text = text.replace(path, short) if len(path) > 2 else text
        return text

    if output.output_type == "stream":
        output.text = clean(output.text)
    for kind in ("text/plain", "text/html", "text/markdown"):
        if kind in output.get("data", {}):
            output.data[kind] = clean(output.data[kind])
    return output
