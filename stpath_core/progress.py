"""Progress: a bar in a terminal or a notebook, a plain line now and then in a log, nothing when nobody asked.

Library functions take `progress=iter` and write `for tile in progress(tiles)`; pass `track`, or
`functools.partial(track, label="tiles")`, to see how far they are. Those that work in several processes call
`progress(done, total, name)`; pass them `steps("sections")`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
PLAIN_EVERY_S = 15.0  # between two lines of a log
BAR_EVERY_S = 0.2  # between two redraws


def track(items: Iterable[T], *, label: str = "", total: int | None = None) -> Iterator[T]:
    """Iterate and show how far.

    items : anything iterable
    label : what is being counted ("sections", "steps")
    total : how many there are; taken from `len(items)` when it has one

    Examples
    --------
    >>> list(track([1, 2], label="sections"))
    [1, 2]
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    show = _shower(label, total)
    begun = time.monotonic()
    count = 0
    try:
        show(0, 0.0)
        for item in items:
            yield item
            count += 1
            show(count, time.monotonic() - begun)
    finally:
        show(count, time.monotonic() - begun, ended=True)


def steps(label: str = "") -> Callable[[int, int, str], None]:
    """For functions that report `progress(done, total, name)` after each item: returns what to pass."""
    begun = time.monotonic()
    showers: list[Any] = []

    def progress(done: int, total: int, name: str = "") -> None:
        del name
        if not showers:
            showers.append(_shower(label, total))
        showers[0](done, time.monotonic() - begun, ended=done >= total)

    return progress


def describe(label: str, count: int, total: int | None, seconds: float) -> str:
    """One line: `tiles 3 of 12, 4 s, 12 s to go`."""
    line = f"{label} {count}".strip() + (f" of {total}" if total else "") + f", {seconds:.0f} s"
    if total and 0 < count < total:
        line += f", {seconds / count * (total - count):.0f} s to go"
    return line


def _shower(label: str, total: int | None, stream: TextIO | None = None) -> Any:
    stream = stream or sys.stderr
    if _in_notebook():
        return _NotebookBar(label, total)
    return _TerminalBar(label, total, stream) if stream.isatty() else _PlainLines(label, total, stream)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


class _PlainLines:
    """For logs: a line when it ends, and one every PLAIN_EVERY_S before."""

    def __init__(self, label: str, total: int | None, stream: TextIO) -> None:
        self.label, self.total, self.stream = label, total, stream
        self.last = time.monotonic()

    def __call__(self, count: int, seconds: float, *, ended: bool = False) -> None:
        if ended or time.monotonic() - self.last >= PLAIN_EVERY_S:
            self.last = time.monotonic()
            print(describe(self.label, count, self.total, seconds), file=self.stream, flush=True)


class _TerminalBar:
    """One line that is drawn over."""

    def __init__(self, label: str, total: int | None, stream: TextIO) -> None:
        self.label, self.total, self.stream = label, total, stream
        self.last = 0.0

    def __call__(self, count: int, seconds: float, *, ended: bool = False) -> None:
        if ended or time.monotonic() - self.last >= BAR_EVERY_S:
            self.last = time.monotonic()
            filled = round(24 * count / self.total) if self.total else 0
            bar = f"[{'#' * filled}{'.' * (24 - filled)}] " if self.total else ""
            self.stream.write(
                f"\r\x1b[K{bar}{describe(self.label, count, self.total, seconds)}" + ("\n" if ended else "")
            )
            self.stream.flush()


class _NotebookBar:
    """One output that is replaced, so that a saved notebook keeps a single line."""

    def __init__(self, label: str, total: int | None) -> None:
        from IPython.display import display

        self.label, self.total = label, total
        self.last = time.monotonic()
        self.handle = display(self._bundle(0, 0.0), raw=True, display_id=True)

    def _bundle(self, count: int, seconds: float) -> dict[str, str]:
        line = describe(self.label, count, self.total, seconds)
        bar = f'<progress value="{count}" max="{self.total}"></progress> ' if self.total and count < self.total else ""
        return {"text/plain": line, "text/html": f"{bar}{line}"}

    def __call__(self, count: int, seconds: float, *, ended: bool = False) -> None:
        if self.handle and (ended or time.monotonic() - self.last >= BAR_EVERY_S):
            self.last = time.monotonic()
            self.handle.update(self._bundle(count, seconds), raw=True)


class CellProgress:
    """The runner's progress through a notebook's code cells: drawn over in a terminal, one line a cell in a log."""

    def __init__(self, cells: list[Any], *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.total = sum(cell.cell_type == "code" for cell in cells)
        self.quiet = quiet
        self.count = 0
        self.heading = ""
        self.begun = time.monotonic()

    def start(self, cell: Any) -> None:
        """A cell begins."""
        if cell.cell_type == "markdown":
            headings = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            self.heading = (headings or [self.heading])[-1][:60]
        elif cell.cell_type == "code":
            self.count += 1
            self.total = max(self.total, self.count)  # papermill adds a cell when values are given
            self.begun = time.monotonic()
            if not self.quiet and self.stream.isatty():
                self.stream.write(f"\r\x1b[K  cell {self.count} of {self.total}  {self.heading}")
                self.stream.flush()

    def end(self, cell: Any) -> None:
        """A cell has ended."""
        if cell.cell_type == "code" and not self.quiet and not self.stream.isatty():
            seconds = time.monotonic() - self.begun
            line = f"  cell {self.count} of {self.total}  {seconds:5.1f} s  {self.heading}"
            print(line.rstrip(), file=self.stream, flush=True)

    def close(self) -> None:
        """The notebook has ended."""
        if not self.quiet and self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()
