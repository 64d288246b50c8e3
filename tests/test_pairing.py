"""Pairs agree by content; what a reader copies works from what it states; outputs belong to their source."""

from __future__ import annotations

import ast
import builtins
import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from conftest import ROOT
from copied_cells import stated_inputs
from stpath_core import cli, pairing, stages
from stpath_core.errors import InputError
from stpath_core.parameters import MANDATORY
from stpath_core.stages import read_notebook

SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
MAX_CODE_CELLS = 18
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|work|private|mnt|var/folders)/[\w.]")
DEFAULTS = {"dataset": "virtual", "data_dir": "", "seed": 0, "device": "auto", "profile": "cpu", "out": ""}

every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def sync(toys):
    return pairing.sync_all(say=lambda _: None)


def output(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def with_output(path, index=2, text="seen"):
    """Give one code cell of a pair an output, as a run would."""
    nb = nbformat.read(path, 4)
    cell = [cell for cell in nb.cells if cell.cell_type == "code"][index]
    cell.outputs, cell.execution_count = [output(text)], 3
    nb.metadata.stpath = {"outputs_of": pairing.code_hash(nb), "stale": False}
    nbformat.write(nb, path)
    return nb


# What sync does


def test_sync_makes_a_pair_that_jupytext_reads_back_to_the_same_file(toys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    nb = nbformat.read(pairing.paired(source), 4)
    nbformat.validate(nb)
    assert jupytext.writes(nb, fmt="py:percent") == source.read_text()


def test_sync_keeps_ids_and_outputs_of_unchanged_cells_when_the_py_changes(toys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    old = with_output(pairing.paired(source))
    source.write_text(source.read_text().replace("# # Toy 10_one", "# # A better title"))
    sync(toys)
    new = nbformat.read(pairing.paired(source), 4)
    assert [c.id for c in new.cells] == [c.id for c in old.cells]
    assert "A better title" in new.cells[1].source
    assert new.metadata.stpath["stale"] is False  # prose was mended, no code
    assert [c.outputs for c in new.cells if c.cell_type == "code"][2][0].text == "seen"


def test_sync_marks_stale_and_drops_the_outputs_of_changed_code(toys, capsys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    with_output(pairing.paired(source))
    source.write_text(source.read_text().replace("x = 1", "x = 2"))
    assert cli.main(["sync", "--check"]) == cli.FAILED
    assert "differs" in capsys.readouterr().out
    sync(toys)
    new = nbformat.read(pairing.paired(source), 4)
    assert new.metadata.stpath["stale"] is True
    assert not any(c.outputs for c in new.cells if c.cell_type == "code")
    assert cli.main(["sync", "--check"]) == cli.FAILED  # in step, but stale


def test_the_py_wins_whatever_the_time_stamps_say(toys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    pair = pairing.paired(source)
    pair.write_text(pair.read_text().replace("x = 1", "x = 99"))  # newer than the .py
    sync(toys)
    assert "x = 1" in pair.read_text()
    assert "x = 1" in source.read_text()


def test_inserted_cells_leave_the_others_alone(toys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    old = with_output(pairing.paired(source))
    source.write_text(source.read_text().replace("# %% [markdown]\n", "# %%\nx = 0\n\n# %% [markdown]\n", 1))
    sync(toys)
    new = nbformat.read(pairing.paired(source), 4)
    assert [c.id for c in new.cells if c.source != "x = 0"] == [c.id for c in old.cells]
    assert len({c.id for c in new.cells}) == len(new.cells)
    assert next(c for c in new.cells if c.source == "x = 1").outputs[0].text == "seen"


def test_second_sync_changes_nothing(toys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    before = pairing.paired(source).stat().st_mtime_ns
    assert sync(toys)
    assert pairing.paired(source).stat().st_mtime_ns == before


def test_ipynb_without_a_py_is_told(toys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    source.rename(source.with_name("11_two.py"))
    assert not sync(toys)


def test_fill_keeps_outputs_with_their_hash_measures_and_no_paths(toys):
    body = "import os\nfrom pathlib import Path\nprint(Path(run.folder).resolve(), os.path.expanduser('~') + '/x')\n7"
    source = toys.add("10_one", body)
    assert cli.main(["notebooks", "10"]) == cli.OK
    nb = nbformat.read(pairing.paired(source), 4)
    nbformat.validate(nb)
    assert nb.metadata.stpath == {"outputs_of": pairing.code_hash(nb), "stale": False}
    outputs = json.dumps([c.outputs for c in nb.cells if c.cell_type == "code"])
    assert str(toys.folder) not in outputs
    assert str(Path.home()) not in outputs
    assert "runs/" in outputs
    assert not any("injected" in str(c.metadata) for c in nb.cells)
    assert re.search(r"^# time: \d+ s \(cpu profile, \d+ cores\)$", source.read_text(), re.MULTILINE)
    assert cli.main(["sync", "--check"]) == cli.OK

    pairing.paired(source).unlink()
    assert cli.main(["notebooks", "10", "--reuse"]) == cli.OK
    assert len(toys.runs) == 1  # nothing ran again
    again = nbformat.read(pairing.paired(source), 4)
    assert json.dumps([c.outputs for c in again.cells if c.cell_type == "code"]) == outputs
    (toys.runs[0] / "10_one.ipynb").unlink()  # as after a session in Jupyter
    assert cli.main(["notebooks", "10", "--reuse"]) == cli.OK
    assert len(toys.runs) == 2


def test_too_large_a_notebook_is_refused_and_the_old_one_stays(toys):
    source = toys.add("10_one", "x = 1")
    sync(toys)
    before = pairing.paired(source).read_text()
    nb = nbformat.read(pairing.paired(source), 4)
    nb.cells[4].outputs = [output("x" * (pairing.MAX_BYTES + 1))]
    with pytest.raises(InputError, match="x = 1"):
        pairing.write_pair(nb, pairing.paired(source))
    assert pairing.paired(source).read_text() == before


# What must hold for the project's own notebooks


@every_notebook
def test_pair_agrees_and_its_outputs_belong_to_it(source):
    assert pairing.paired(source).exists(), "run `make sync`"
    nb = nbformat.read(pairing.paired(source), 4)
    nbformat.validate(nb)
    assert pairing.contents(nb) == pairing.contents(pairing.read_source(source)), "run `make sync`"
    told = nb.metadata.stpath
    assert told["stale"] is False, "run `make notebooks`"
    assert told["outputs_of"] == pairing.code_hash(nb), "run `make notebooks`"
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    assert not any(out.output_type == "error" for cell in code for out in cell.outputs)


@every_notebook
def test_pair_is_small_and_names_no_machine(source):
    pair = pairing.paired(source)
    assert pair.stat().st_size <= pairing.MAX_BYTES
    for cell in nbformat.read(pair, 4).cells:
        for out in cell.get("outputs", []):
            texts = {k: v for k, v in out.get("data", {}).items() if k.startswith("text/")}
            found = MACHINE_PATH.search(json.dumps([texts, out.get("text", "")]))
            assert not found, f"the output of {cell.source[:60]!r} shows {found[0]}"


@every_notebook
def test_our_reader_and_jupytext_see_the_same_cells(source):
    ours = [(c.kind, c.source, c.tags) for c in read_notebook(source).cells]
    theirs = [cell for cell in pairing.contents(pairing.read_source(source)) if cell[0] != "raw"]
    assert [c for c in ours if c[0] == "code"] == [c for c in theirs if c[0] == "code"]
    assert [c[0] for c in ours] == [c[0] for c in theirs]


@every_notebook
def test_header_says_what_a_reader_needs(source):
    header = read_notebook(source).header
    for name in ("title", "part", "goals", "needs", "reads", "writes", "time", "memory"):
        assert name in header, name
    assert len(header["goals"]) >= 2
    assert set(header["needs"]) <= {path.stem for path in SOURCES}


@every_notebook
def test_parameters_are_the_mandatory_ones_with_a_comment_each(source):
    notebook = read_notebook(source)
    for name, kind in MANDATORY.items():
        assert notebook.parameters[name].kind is kind
        assert notebook.parameters[name].default == DEFAULTS[name]
    for parameter in notebook.parameters.values():
        assert parameter.comment, f"{parameter.name} says neither meaning nor unit"
    assert "parameters" in next(cell for cell in notebook.cells if cell.kind == "code").tags


@every_notebook
def test_every_profile_decides_what_is_left_to_it(source):
    notebook = read_notebook(source)
    for profile in ("smoke", "cpu", "gpu"):
        values = notebook.resolve({"profile": profile})
        left = [name for name, p in notebook.parameters.items() if "None: what the profile says" in p.comment]
        open_ones = [name for name in left if values[name] is None]
        assert not open_ones, f"notebooks/params/{profile}.yaml does not decide {open_ones}"


@every_notebook
def test_cells_are_few_and_thin(source):
    code = read_notebook(source).code
    assert len(code) <= MAX_CODE_CELLS
    assert f'begin("{source.stem}", globals())' in code[1]
    assert code[-1].strip().endswith("run.done()")
    for cell in code:
        for node in ast.walk(ast.parse(cell)):
            assert not isinstance(node, ast.ClassDef), "classes belong in stpath_core"
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10, f"{node.name} has more than 10 lines"


@every_notebook
def test_lesson_has_exercises_with_solutions_and_key_points(source):
    cells = read_notebook(source).cells
    tags = [tag for cell in cells for tag in cell.tags]
    assert 2 <= tags.count("exercise") <= 3
    assert tags.count("solution") >= tags.count("exercise")
    assert "## Key points" in [c.source.replace("# ## ", "## ").splitlines()[0] for c in cells if c.kind == "markdown"]


@every_notebook
def test_copied_cells_state_their_imports_and_inputs(source):
    cells = [cell.source for cell in read_notebook(source).cells if "copy-me" in cell.tags]
    assert cells, "mark at least one cell with the tag copy-me"
    for cell in cells:
        assert not undeclared(cell), f"{sorted(undeclared(cell))} of\n{cell}"


def undeclared(cell):
    """Names that a cell uses and neither imports, defines nor lists in a comment `# inputs: a, b`."""
    known = set(dir(builtins)) | stated_inputs(cell)
    used = set()
    for node in ast.walk(ast.parse(cell)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.arg):
            known.add(node.name if isinstance(node, ast.FunctionDef) else node.arg)
    return used - known


def test_undeclared_names_are_found():
    assert undeclared("# inputs: a (N, 2), b\nimport numpy as np\nc = [x + a for x in b]\nnp.sum(c)") == set()
    assert undeclared("import numpy as np\nc = np.sum(a)\nd = scanpy.pp(c)") == {"a", "scanpy"}


def test_profiles_name_existing_notebooks():
    import yaml

    for profile in ("smoke", "cpu", "gpu"):
        sections = yaml.safe_load((ROOT / "notebooks" / "params" / f"{profile}.yaml").read_text())
        assert set(sections) - {"all"} <= {path.stem for path in SOURCES}


def test_part_one_is_there():
    assert {path.stem[:2] for path in SOURCES} >= {"00", "10", "11", "12", "13"}


def test_wrong_sections_are_refused(toys):
    source = toys.add("10_one", "x = 1")
    source.write_text(source.read_text().replace("seed: int = 0", "sead: int = 0"))
    with pytest.raises(InputError, match="seed"):
        stages.read_notebook(source)
