"""Progress: a bar in a terminal or a notebook, now and then a line in a log, and never noise in a saved notebook."""

from __future__ import annotations

import io
import re
import sys
import time

import nbformat
import pytest

from stpath_core import cli, progress

SLOW = """\
import time
from stpath_core.progress import track
for _ in track(range(20), label="steps"):
    time.sleep(0.1)"""
CELL = nbformat.v4.new_code_cell("x")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_plain_in_a_log_and_a_bar_in_a_terminal(monkeypatch):
    log, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress.track(range(3), label="tiles")) == [0, 1, 2]
    assert log.getvalue() == "tiles 3 of 3, 0 s\n"
    monkeypatch.setattr(sys, "stderr", terminal)
    list(progress.track(range(3), label="tiles"))
    assert "\r" in terminal.getvalue()
    assert terminal.getvalue().endswith("tiles 3 of 3, 0 s\n")
    told = progress.steps("sections")
    told(2, 2, "a")
    assert "sections 2 of 2" in terminal.getvalue()


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (119, "119 s"), (120, "2:00 min"), (312.2, "5:12 min")])
def test_a_duration_is_said_as_one_reads_it(seconds, said):
    assert progress.clock(seconds) == said


def test_a_long_cell_says_in_a_log_how_far_its_bar_is(toys, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LONG_CELL_EVERY_S", 0.5)
    toys.add("10_one", SLOW)
    assert cli.main(["run", "10"]) == cli.OK
    lines = [line for line in capsys.readouterr().err.splitlines() if "steps" in line]
    assert 2 <= len(lines) <= 6, lines
    assert all(re.fullmatch(r"  cell \d of \d  running for \d s  Toy 10_one: steps \d+ of 20, .*", x) for x in lines)
    assert "to go" in lines[-1]
    counts = [int(re.search(r"steps (\d+)", line)[1]) for line in lines]
    assert counts == sorted(set(counts))
    shown = nbformat.read(next(toys.runs[0].glob("*.ipynb")), 4)
    outputs = [o for c in shown.cells if "track" in c.source for o in c.outputs]
    assert len(outputs) == 1, "a saved notebook keeps one line of a bar"
    assert outputs[0]["data"]["text/plain"].startswith("steps 20 of 20")
    assert "<progress" not in outputs[0]["data"]["text/html"]


def test_a_notebook_that_is_made_first_is_heard_from_within(toys, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LONG_CELL_EVERY_S", 0.5)
    toys.add("10_one", "import time\ntime.sleep(1)")
    toys.add("11_two", 'run.inputs("10_one")', needs="10_one")
    assert cli.main(["run", "11"]) == cli.OK
    assert re.search(r"running for .*: 10_one: cell \d of \d", capsys.readouterr().err)
    shown = nbformat.read(next(toys.folder.glob("runs/*11_two*/11_two.ipynb")), 4)
    outputs = [o for c in shown.cells if c.source.startswith("run.inputs") for o in c.outputs]
    texts = [o["data"]["text/plain"] for o in outputs if o.output_type == "display_data"]
    assert len(texts) == 1
    assert re.fullmatch(r"10_one: its outputs were missing, made in \d+ s", texts[0])


def test_short_cells_failed_cells_and_terminals_get_no_such_line(monkeypatch):
    monkeypatch.setattr(progress, "LONG_CELL_EVERY_S", 0.2)
    log, terminal = io.StringIO(), Terminal()
    for stream, quiet in ((log, False), (terminal, False), (io.StringIO(), True)):
        seen = progress.CellProgress([CELL], quiet=quiet, stream=stream)
        seen.start(CELL)
        if stream is not log:
            time.sleep(0.5)
        seen.end(CELL)
        seen.close()
        time.sleep(0.4)
        assert "running for" not in stream.getvalue()
    assert log.getvalue().count("\n") == 1


def test_a_reader_who_has_gone_does_not_stop_the_run(monkeypatch):
    monkeypatch.setattr(progress, "LONG_CELL_EVERY_S", 0.05)
    failures = []
    monkeypatch.setattr("threading.excepthook", failures.append)

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(text)

    seen = progress.CellProgress([CELL], stream=Gone())
    seen.start(CELL)
    time.sleep(0.3)
    seen.close()
    assert not failures


def test_what_a_cell_said_last_is_its_bar_or_its_last_line():
    said = nbformat.v4.new_output("stream", name="stdout", text="one\n\x1b[1mtwo\x1b[0m\r\n\n")
    bar = nbformat.v4.new_output(
        "display_data", {"text/plain": "tiles 3 of 9", "text/html": "<progress></progress> tiles 3 of 9"}
    )
    full = nbformat.v4.new_output("display_data", {"text/plain": "tiles 9 of 9", "text/html": "tiles 9 of 9"})
    assert progress.last_said([]) == ""
    assert progress.last_said([full]) == ""
    assert progress.last_said([full, said]) == "two"
    assert progress.last_said([bar, said]) == "tiles 3 of 9"
    assert progress.last_said([bar, said, bar | {"data": {"text/plain": "b", "text/html": "<progress> b"}}]) == "b"
