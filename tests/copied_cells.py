"""Run every cell to copy of some notebooks alone: from its own imports and the inputs that it states, nothing else.

`python copied_cells.py OUT NOTEBOOK...` runs at smoke. Inputs come from the cells before it, as a reader has them.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from stpath_core import stages


def stated_inputs(cell: str) -> set[str]:
    """The names after `# inputs:`; what stands in brackets explains."""
    lines = re.findall(r"^# inputs: (.*)$", cell, re.MULTILINE)
    return {name for line in lines for name in re.findall(r"[A-Za-z_]\w*", re.sub(r"\(.*?\)", "", line))}


def run_alone(cell: str, known: dict[str, Any], *, where: str = "cell") -> dict[str, Any]:
    """Run a cell in a namespace that holds its stated inputs only. Returns what it holds afterwards."""
    missing = stated_inputs(cell) - set(known)
    if missing:
        msg = f"{where} states the inputs {sorted(missing)}, which no cell before it makes"
        raise NameError(msg)
    alone = {"__name__": "__main__"} | {name: known[name] for name in stated_inputs(cell)}
    exec(compile(cell, where, "exec"), alone)  # our own notebook
    return alone


def run_notebook(name: str, out: str) -> int:
    """Run a notebook up to its last cell to copy, solutions left out. Returns how many cells ran alone."""
    cells = [c for c in stages.find_notebook(name).cells if c.kind == "code" and "solution" not in c.tags]
    last = max(k for k, cell in enumerate(cells) if "copy-me" in cell.tags)
    known: dict[str, Any] = {"__name__": "__main__"}
    alone = 0
    for number, cell in enumerate(cells[: last + 1]):
        where = f"{name}, code cell {number + 1}"
        if "copy-me" in cell.tags:
            known |= run_alone(cell.source, known, where=where)
            alone += 1
        else:
            exec(compile(cell.source, where, "exec"), known)
        if "parameters" in cell.tags:
            known |= {"profile": "smoke", "out": out}
    return alone


def main() -> None:
    """Run the named notebooks, in the shell that their kernel would give them."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell

    mpl.use("agg")
    InteractiveShell.instance()
    out, *names = sys.argv[1:]
    for name in names:
        print(f"{name}: {run_notebook(name, out)} cells ran alone", flush=True)
        plt.close("all")


if __name__ == "__main__":
    main()
