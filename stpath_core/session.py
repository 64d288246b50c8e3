"""What the IPython session says: which cells ran, and which parameters papermill put in."""

from __future__ import annotations

import sys
from pathlib import Path

from stpath_core.stages import Notebook


def history() -> list[str] | None:
    """The cells that this IPython session has run, as typed; None outside IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
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
