"""Progress: a bar in a terminal or a notebook, a plain line now and then in a log, nothing when nobody asked.

Library functions take `progress=iter` and write `for tile in progress(tiles)`; pass `track`, or
`functools.partial(track, label="tiles")`, to see how far they are. Those that work in several processes call
`progress(done, total, name)`; pass them `steps("sections")`.
"""

from __future__ import annotations

import html
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
PLAIN_EVERY_S = 15.0  # between two lines of a log
BAR_EVERY_S = 0.2  # between two redraws
LONG_CELL_EVERY_S = 30.0  # between two lines of a log about one cell that is still running


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


def replaced_line() -> Callable[..., None]:
    """For what another process says: returns `say(text, ended=False)`.

    In a notebook one line is replaced, so that a saved notebook keeps the last; elsewhere each is printed.
    """
    if not _in_notebook():
        return lambda text, *, ended=False: print(text, flush=True)
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)

    def say(text: str, *, ended: bool = False) -> None:
        handle.update(_shown(text, None if ended else "<progress></progress> "), raw=True)

    return say


def describe(label: str, count: int, total: int | None, seconds: float) -> str:
    """One line: `tiles 3 of 12, 4 s, 12 s to go`."""
    line = f"{label} {count}".strip() + (f" of {total}" if total else "") + f", {clock(seconds)}"
    if total and 0 < count < total:
        line += f", {clock(seconds / count * (total - count))} to go"
    return line


def clock(seconds: float) -> str:
    """A duration as one reads it: `48 s`, from two minutes on `5:12 min`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60}:{whole % 60:02d} min"


def last_said(outputs: Sequence[Any]) -> str:
    """The newest line of a running cell's outputs (nbformat): a bar that is not full, else what it printed last."""
    outputs = list(outputs)
    for output in reversed(outputs):
        data = output.get("data", {})
        if "<progress" in str(data.get("text/html", "")):
            return str(data.get("text/plain", ""))
    printed = "".join(str(o.get("text", "")) for o in outputs if o.get("output_type") == "stream")
    lines = [line.strip() for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;]*\w", "", printed)) if line.strip()]
    return lines[-1][:100] if lines else ""


def _shown(line: str, bar: str | None) -> dict[str, str]:
    """A line with its bar, as a notebook displays it. The tag `progress` is there while the work goes on."""
    return {"text/plain": line, "text/html": f"{bar or ''}{html.escape(line)}"}


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
        return _shown(line, bar)

    def __call__(self, count: int, seconds: float, *, ended: bool = False) -> None:
        if self.handle and (ended or time.monotonic() - self.last >= BAR_EVERY_S):
            self.last = time.monotonic()
            self.handle.update(self._bundle(count, seconds), raw=True)


class CellProgress:
    """The runner's progress through a notebook's code cells.

    A terminal's line is drawn over. A log gets one line a cell, and while a cell runs for long, one every
    LONG_CELL_EVERY_S with what the cell itself shows: its bar reaches us as an output of the cell.
    """

    def __init__(self, cells: list[Any], *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.total = sum(cell.cell_type == "code" for cell in cells)
        self.quiet = quiet
        self.count = 0
        self.heading = ""
        self.begun = time.monotonic()
        self.ended = threading.Event()  # of the cell that runs

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
            elif not self.quiet:
                self.ended = threading.Event()
                threading.Thread(target=self._watch, args=(cell, self.ended), daemon=True).start()

    def _watch(self, cell: Any, ended: threading.Event) -> None:
        """Say now and then how far a cell is, until it has ended or nobody reads any more."""
        while not ended.wait(LONG_CELL_EVERY_S):
            said = ": ".join(filter(None, (self.heading, last_said(cell.get("outputs", [])))))
            line = f"  cell {self.count} of {self.total}  running for {clock(time.monotonic() - self.begun)}  {said}"
            try:
                print(line.rstrip(), file=self.stream, flush=True)
            except (OSError, ValueError):
                return

    def end(self, cell: Any) -> None:
        """A cell has ended."""
        self.ended.set()
        if cell.cell_type == "code" and not self.quiet and not self.stream.isatty():
            seconds = time.monotonic() - self.begun
            line = f"  cell {self.count} of {self.total}  {seconds:5.1f} s  {self.heading}"
            print(line.rstrip(), file=self.stream, flush=True)

    def close(self) -> None:
        """The notebook has ended."""
        self.ended.set()
        if not self.quiet and self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()
