"""The IPython session: which cells ran, which parameters papermill put in, which cells other data sets own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from stpath_core.stages import Notebook

ONLY = re.compile(r"^# only for dataset=(.+)$", re.MULTILINE)


def history() -> list[str] | None:
    """The cells that this IPython session has run, as typed; None outside IPython."""
    shell = _shell()
    return None if shell is None else [source.strip("\n") for source in shell.history_manager.input_hist_raw]


def injected_names() -> list[str]:
    """Names that papermill set in its cell, which starts with `# Parameters`."""
    cells = [c for c in history() or [] if c.startswith("# Parameters\n")]
    return [line.partition("=")[0].strip() for c in cells[-1:] for line in c.splitlines() if line[:1].isidentifier()]


def as_written(notebook: Notebook) -> bool:
    """Whether the cells run since `begin` are those of the notebook's .py, in order, and no others."""
    ran = history()
    if ran is None:
        return Path(getattr(sys.modules.get("__main__"), "__file__", "") or "").resolve() == notebook.path.resolve()
    first = next((i for i, source in enumerate(notebook.code) if "begin(" in source), 0)
    written = list(notebook.code[first:])
    starts = [i for i, source in enumerate(ran) if source == written[0]]
    return bool(starts) and ran[starts[-1] :] == written[: len(ran) - starts[-1]] and "run.done()" in ran[-1]


def skip_cells_of_other_data(dataset: str) -> None:
    """From now on the session passes over cells whose line `# only for dataset=a, b` does not name this data set.

    Each says so in one line that names those that it is for. A notebook whose parts ask for different data needs no
    `if` around every cell. Does nothing outside IPython.
    """
    shell = _shell()
    if shell is None:
        return

    def passed_over(lines: list[str]) -> list[str]:
        found = ONLY.search("".join(lines))
        named = re.split(r",\s*", found[1].strip()) if found else [dataset]
        line = f"passed over: this cell is for dataset={' or '.join(named)}"
        return lines if dataset in named else [f"print({line!r})\n"]

    steps = shell.input_transformers_cleanup
    steps[:] = [step for step in steps if getattr(step, "__name__", "") != passed_over.__name__] + [passed_over]


def _shell() -> Any:
    """The running IPython, or None."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None
