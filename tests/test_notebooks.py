"""Every notebook runs through papermill at smoke, from nothing, with the network blocked."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import nbformat
import pytest

from conftest import NO_NETWORK, ROOT
from copied_cells import run_alone
from stpath_core import manifest, run, stages

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
SHARED_CACHE = "notebooks"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A cache and a runs folder of this test session: later notebooks find the outputs of earlier ones."""
    folder = tmp_path_factory.mktemp(SHARED_CACHE)
    return {"cache": folder / "cache", "runs": folder / "runs"}


@pytest.fixture
def isolated(fresh, monkeypatch, no_network):
    """The project's notebooks, on the fresh cache, cut off the network."""
    del no_network
    monkeypatch.delenv("STPATH_HOME", raising=False)
    monkeypatch.setenv("STPATH_CACHE", str(fresh["cache"]))
    return fresh


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_at_smoke(name, isolated):
    planned = run.plan([name], {"profile": "smoke", "out": str(isolated["runs"])})
    outcome = run.run_planned(planned, quiet_cells=True)[0]
    assert outcome.status == "ok", outcome.message
    told = manifest.read_json(outcome.folder / "manifest.json")
    assert told["exact"], "the cells that ran are not those of the .py"
    assert stages.read_marker(stages.stage_folder(planned[0].notebook, told["stage"]))
    for key, value in json.loads((outcome.folder / "metrics.json").read_text()).items():
        assert value is None or (isinstance(value, int | float) and math.isfinite(value)), key
    executed = nbformat.read(outcome.folder / f"{name}.ipynb", 4)
    warned = [
        text
        for cell in executed.cells
        for out in cell.get("outputs", [])
        if "Warning" in (text := str(out.get("text", ""))) and out.get("name") == "stderr"
    ]
    assert not warned, f"warnings reach the reader: {warned[0][:500]}"
    checks = [cell for cell in executed.cells if "check" in cell.metadata.get("tags", ())]
    told = [line for cell in checks for out in cell.outputs for line in out.text.splitlines()]
    assert all(line.endswith(": right") for line in told), f"the solution does not pass its own check: {told}"
    assert len(told) == sum(cell.source.count("check_answer(") for cell in checks)
    assert not (isolated["runs"] / "latest").exists()  # smoke never enters


def test_cells_to_copy_run_alone(isolated):
    """Each from its own imports and stated inputs. The outputs of other notebooks are those of the runs above."""
    program = ROOT / "tests" / "copied_cells.py"
    words = [sys.executable, str(program), str(isolated["runs"]), *NAMES]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ran = dict(re.findall(r"^(\w+): (\d+) cells ran alone$", done.stdout, re.MULTILINE))
    marked = {name: str(sum("copy-me" in c.tags for c in stages.find_notebook(name).cells)) for name in NAMES}
    assert ran == marked


@pytest.mark.parametrize("cell", ["# inputs: a\nb = a + c", "# inputs: a\nb = math.sin(a)", "# inputs: a, d\nb = a"])
def test_a_cell_that_states_too_little_does_not_run_alone(cell):
    with pytest.raises(NameError):
        run_alone(cell, {"a": 1, "c": 2, "math": math})
    assert run_alone("# inputs: a, c (both)\nb = a + c", {"a": 1, "c": 2})["b"] == 3


def test_plain_papermill_with_changed_parameters(isolated, tmp_path):
    """As a reader without our runner does it, from the .ipynb."""
    name = next(name for name in NAMES if name.startswith("10_"))
    pair = ROOT / "notebooks" / f"{name}.ipynb"
    words = [sys.executable, "-m", "papermill", str(pair), str(tmp_path / "out.ipynb"), "--no-progress-bar"]
    words += ["-k", "python3", "-p", "profile", "smoke", "-p", "seed", "1", "-p", "out", str(tmp_path / "runs")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [manifest.read_json(path) for path in (tmp_path / "runs").glob("*/manifest.json")]
    mine = next(one for one in told if one["notebook"] == name)
    assert (mine["status"], mine["seed"], mine["profile"], mine["exact"]) == ("complete", 1, "smoke", True)
    assert {one["seed"] for one in told} == {1}, "the notebooks that were made first had another seed"


@pytest.mark.parametrize(
    ("program", "blocked"),
    [
        ("import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)", True),
        ("import socket; socket.socket().connect(('192.0.2.1', 80))", True),
        ("import socket; socket.socket().connect_ex(('192.0.2.1', 80))", True),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", True),
        ("import urllib.request; urllib.request.urlopen('http://example.org', timeout=5)", True),
        ("import asyncio; asyncio.run(asyncio.open_connection('example.org', 80))", True),
        ("import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())", False),
    ],
)
def test_the_block_blocks_all_but_this_machine(program, blocked):
    environment = os.environ | {"PYTHONPATH": str(NO_NETWORK)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode != 0) == blocked
    assert ("the network is blocked in tests" in done.stderr) == blocked


def test_the_block_reaches_kernels_and_what_they_start(toys, no_network):
    body = (
        "import socket, subprocess, sys\n"
        "program = \"import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)\"\n"
        "child = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)\n"
        "assert 'blocked in tests' in child.stderr\n"
        "exec(program)"
    )
    toys.add("10_one", body)
    outcome = run.run_planned(run.plan(["10"], {}), quiet_cells=True)[0]
    assert outcome.status == "failed"
    assert "the network is blocked in tests" in outcome.message


def test_the_session_starts_from_an_empty_cache(tmp_path_factory, fresh):
    assert str(fresh["cache"]).startswith(str(tmp_path_factory.getbasetemp()))
