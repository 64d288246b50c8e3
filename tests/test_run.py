"""`stpath run`: refuses before it starts, records what ran, reuses what is unchanged, and says how it ended."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from conftest import ROOT, interrupt, started, wait_until
from stpath_core import cli, manifest, record, run

WRITE = '(run.stage / "x.txt").write_text("x" * size)\nreport("part1.size", size)'
READ = 'text = (run.inputs("10_one") / "x.txt").read_text()\nreport("part1.read", len(text))'


def stpath(*words):
    return cli.main([str(word) for word in words])


def metrics(toys):
    return manifest.read_json(toys.folder / "runs" / "latest" / "metrics.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "77"], "no notebook '77'"),
        (["run", "10", "-p", "sise=3"], "did you mean size"),
        (["run", "10", "-p", "size=x"], "it takes int"),
        (["run", "10", "-p", "size"], "-p size=VALUE"),
        (["run", "10", "--seed", "x"], "it takes int"),
        (["run", "10", "--profile", "huge"], "no profile 'huge'"),
        (["run", "10", "-p", "data_dir=/nowhere"], "does not exist"),
        (["run", "10", "-f", "none.yaml"], "none.yaml"),
        (["run", "10", "-p", "dataset=monuseg"], "10_one runs on dataset=virtual; for monuseg run none"),
    ],
)
def test_wrong_commands_start_nothing(toys, capsys, words, said):
    toys.add("10_one", WRITE, parameters="size: int = 3", header="# datasets: [virtual]\n")
    assert stpath(*words) == cli.USAGE
    assert said in capsys.readouterr().err
    assert not (toys.folder / "runs").exists()


def test_real_data_without_a_folder_starts_nothing(toys, capsys):
    toys.add("10_one", WRITE, parameters="size: int = 3", header="# datasets: [virtual, monuseg]\n")
    assert stpath("run", "10", "-p", "dataset=monuseg") == cli.USAGE
    assert "say where, with -p data_dir=FOLDER" in capsys.readouterr().err
    assert not (toys.folder / "runs").exists()


def test_unknown_options_are_usage_errors(toys):
    with pytest.raises(SystemExit, match="2"):
        stpath("run", "10", "--parallel")


def test_run_records_merges_and_reuses(toys, capsys):
    """One story, because each kernel start costs a second."""
    toys.add("10_one", WRITE, parameters="size: int = 3  # things")
    toys.add("11_two", READ, needs="10_one")
    toys.profiles({"cpu": "all: {}"})
    assert stpath("run", "11", "--seed", 1) == cli.OK  # makes what it needs
    assert metrics(toys) == {"part1.read": 3, "part1.size": 3}
    told = {m["notebook"]: m for m in (manifest.read_json(p / "manifest.json") for p in toys.runs)}
    assert told["11_two"]["needs"] == {"10_one": told["10_one"]["stage"]}
    assert told["11_two"]["seconds_in_needed"] > 0.5
    assert told["11_two"]["seconds"] < 60
    assert told["10_one"]["seed"] == told["11_two"]["seed"] == 1
    assert told["10_one"]["exact"]
    assert (toys.runs[0] / f"{manifest.read_json(toys.runs[0] / 'manifest.json')['notebook']}.ipynb").exists()

    capsys.readouterr()
    assert stpath("run", "all", "--reuse", "--seed", 1) == cli.OK
    said = capsys.readouterr().out
    assert said.count("reused") == 2
    assert len(toys.runs) == 2

    toys.add("11_two", READ + "\nreport('part1.more', 1)", needs="10_one")
    assert stpath("run", "all", "--reuse", "--seed", 1) == cli.OK
    said = capsys.readouterr().out
    assert said.count("reused") == 1
    assert metrics(toys)["part1.more"] == 1

    # a value given reaches the notebook that is needed, although the named one only passes it on
    assert stpath("run", "all", "-p", "size=5", "--seed", 1) == cli.OK
    assert metrics(toys)["part1.read"] == 5


def test_two_notebooks_that_start_at_once_cannot_be_told_one_port(toys):
    """Ports are looked for before they are taken, and another kernel may take them in between."""
    ask = "from ipykernel.connect import get_connection_info\nhow = get_connection_info(unpack=True)\n"
    toys.add("10_one", ask + "assert how['transport'] == 'ipc', how['transport']\nprint(how['ip'])")
    assert stpath("run", "10") == cli.OK
    (text,) = (p.read_text() for p in toys.runs[0].glob("*.ipynb"))
    place = Path(re.search(r'"(/[^"]*?/kernel)[\\"]', text)[1])
    assert not place.parent.exists()  # nothing is left where the sockets were


def test_smoke_runs_never_enter_latest_and_out_moves_the_runs(toys):
    toys.add("10_one", WRITE, parameters="size: int = 3")
    assert stpath("run", "10", "--profile", "smoke", "--out", toys.folder / "else") == cli.OK
    assert not toys.runs
    assert [p.name for p in (toys.folder / "else").glob("*/*.ipynb")] == ["10_one.ipynb"]
    assert not (toys.folder / "else" / "latest").exists()


def test_failing_notebook_leaves_its_copy_and_stops_those_that_need_it(toys, capsys):
    toys.add("10_one", "raise KeyError('no gene ABC')")
    toys.add("11_two", READ, needs="10_one")
    toys.add("12_else", "report('part1.c', 1)")
    assert stpath("run", "all") == cli.FAILED
    said = capsys.readouterr().out
    assert "no gene ABC" in said
    assert "11_two: not run" in said
    failed = next(p for p in toys.runs if "10_one" in p.name)
    assert "no gene ABC" in (failed / "10_one.ipynb").read_text()
    told = manifest.read_json(failed / "manifest.json")
    assert told["status"] == "failed"
    assert "no gene ABC" in told["error"]
    assert metrics(toys) == {"part1.c": 1}
    assert not list((toys.folder / "data").rglob("*.ipynb"))
    assert not [p for p in (toys.folder / "data" / "cache" / "stages" / "10_one").rglob("complete.json")]


def test_out_of_range_fails_the_run(toys, capsys):
    toys.add("10_one", "expect('part1.a', 2.0, low=0, high=1, why='the labels are random')")
    assert stpath("run", "10") == cli.FAILED
    assert "the labels are random" in capsys.readouterr().out
    assert metrics(toys) == {}


def test_edited_cells_are_recorded_but_not_merged(toys):
    """As in a session in which a reader runs a cell of their own."""
    toys.add("10_one", "report('part1.a', 1)\nget_ipython().history_manager.input_hist_raw.append('x = 1')")
    assert stpath("run", "10") == cli.OK
    assert manifest.read_json(toys.runs[0] / "manifest.json")["exact"] is False
    assert metrics(toys) == {}


def test_parameter_file_with_sections_and_p_wins(toys):
    toys.add("10_one", WRITE, parameters="size: int = 3")
    file = toys.folder / "a.yaml"
    file.write_text("seed: 2\n10_one: {size: 6}\n")
    assert stpath("run", "10", "-f", file, "-p", "seed=4") == cli.OK
    told = manifest.read_json(toys.runs[0] / "manifest.json")
    assert (told["parameters"]["size"], told["parameters"]["seed"]) == (6, 4)


def test_plain_papermill_refuses_unknown_names_and_takes_known_ones(toys):
    from stpath_core import pairing

    source = toys.add("10_one", WRITE, parameters="size: int | None = None  # things")
    toys.profiles({"cpu": "10_one: {size: 8}"})
    pairing.sync_all(say=lambda _: None)
    papermill = [sys.executable, "-m", "papermill", "--no-progress-bar", str(pairing.paired(source)), "out.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*papermill, "-p", "sise", "3"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert "did you mean size" in done.stderr
    assert not toys.runs
    done = subprocess.run([*papermill, "-p", "seed", "3"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told = manifest.read_json(toys.runs[0] / "manifest.json")
    assert (told["parameters"]["size"], told["seed"], told["exact"]) == (8, 3, True)
    assert metrics(toys) == {"part1.size": 8}


@pytest.mark.parametrize("named", ["10", "11"])
def test_interrupt_ends_the_kernel_and_exits_130(toys, named):
    """Of the named notebook, or of one that it needs and that is made first."""
    toys.add("11_two", READ, needs="10_one")
    toys.add("10_one", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(120)")
    words = [sys.executable, "-m", "stpath_core", "run", named]
    process = started(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    pid_file = toys.folder.parent / "pid"
    assert wait_until(lambda: pid_file.exists() and pid_file.read_text(), 30)
    interrupt(process)
    # a kernel notices within a second or two that who started it has gone
    assert wait_until(lambda: not psutil.pid_exists(int(pid_file.read_text())), 5)
    assert len(toys.runs) == int(named) - 9
    told = {m["notebook"]: m["status"] for m in (manifest.read_json(p / "manifest.json") for p in toys.runs)}
    assert told.pop("11_two" if named == "11" else "10_one") == "interrupted"
    assert set(told.values()) <= {"interrupted", "running"}  # the one that is made first may be killed before it writes


def test_a_kernel_ended_by_an_interrupt_leaves_no_traceback_of_who_waited_for_it():
    from nbclient.exceptions import DeadKernelError

    def record_of(error):
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, "", None, (type(error), error, None))

    assert not run._not_a_dead_kernel(record_of(DeadKernelError("Kernel died")))
    assert run._not_a_dead_kernel(record_of(ValueError("x")))


def test_checkpoint_is_told(toys, capsys):
    toys.add("10_one", '(run.stage / "nuclei.safetensors").write_bytes(b"x")')
    assert stpath("run", "10") == cli.OK
    line = next(line for line in capsys.readouterr().out.splitlines() if "checkpoint" in line)
    assert Path(line.split(": ")[1].strip()).read_bytes() == b"x"


def test_report_shows_values_intervals_and_ranges(toys, capsys):
    run = toys.folder / "runs" / "a"
    told = {
        "id": "a",
        "notebook": "10_one",
        "dataset": "virtual",
        "profile": "cpu",
        "status": "complete",
        "exact": True,
    }
    told |= {"given": {}, "used": "1", "seconds": 1}
    told["expectations"] = [{"key": "k", "value": 2.0, "low": 0, "high": 1, "inside": False, "why": ""}]
    manifest.write_json(run / "manifest.json", told)
    manifest.write_json(run / "metrics.json", {"k": 2.0, "k.lo": 1.5, "k.hi": 2.5, "u": None})
    assert stpath("report") == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["k", "2", "[1.5,", "2.5]", "OUTSIDE,", "0", "to", "1"]
    assert lines[1].split() == ["u", "undefined"]


def test_predict_nuclei_passes_its_options_on(monkeypatch, tmp_path):
    from stpath_core import predict_folder

    seen = {}
    monkeypatch.setattr(predict_folder, "predict_folder", lambda *words, **named: seen.update(named, words=words))
    assert stpath("predict-nuclei", "a.safetensors", tmp_path, "--out", tmp_path / "o", "--mpp", "0.25") == cli.OK
    assert [str(w) for w in seen["words"]] == ["a.safetensors", str(tmp_path), str(tmp_path / "o")]
    assert (seen["mpp"], seen["device"]) == (0.25, "auto")
    assert list(seen["progress"]([1, 2])) == [1, 2]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["predict-nuclei", "--help"], ["doctor", "--help"]])
def test_help_names_the_exit_codes(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        stpath(*words)
    assert "exit codes: 0" in capsys.readouterr().out


def test_given_values_travel_as_json_in_the_environment(toys, monkeypatch):
    monkeypatch.setenv(record.GIVEN_VARIABLE, json.dumps({"size": 9}))
    toys.add("10_one", parameters="size: int = 3")
    toys.add("11_two", needs="10_one")
    from stpath_core import run, stages

    one = run.plan(["11"], {})[0]
    assert one.given_to_all == {"size": 9}
    assert one.stage != stages.stage_folder(one.notebook, stages.stage_key(one.notebook, {}))
