"""Parameters are checked, numbers are recorded, and ranges bind only where they were calibrated."""

from __future__ import annotations

import json
import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from stpath_core import latest, manifest, parameters, record, stages
from stpath_core.errors import InputError
from stpath_core.record import OutOfRange, begin, expect, report

mpl.use("Agg")


def start(toys, *, line="size: int = 3  # things", **values):
    toys.add("10_one", parameters=line)
    variables = {
        "dataset": "virtual",
        "data_dir": "",
        "seed": 0,
        "device": "auto",
        "profile": "cpu",
        "out": "",
        "size": 3,
    }
    variables |= values
    return begin("10_one", variables), variables


def test_parameter_cell_gives_types_defaults_and_comments():
    found = parameters.declared("a: int | None = None  # steps\nb: list[float] = [1, 2]\nc: str = 'x # y'  # text")
    assert found["a"].comment == "steps"
    assert found["a"].default is None
    assert found["b"].default == [1.0, 2.0]
    assert found["c"].default == "x # y"


@pytest.mark.parametrize("line", ["a = 3", "a: int", "a: int = 1 + b", "a: Foo = 3", "import os", "a: int = 'x'"])
def test_parameter_cell_refuses_what_papermill_could_not_replace(line):
    with pytest.raises(InputError):
        parameters.declared(line)


@pytest.mark.parametrize(
    ("declaration", "text", "value"),
    [
        ("a: int = 0", "3", 3),
        ("a: float = 0.0", "1e-3", 1e-3),
        ("a: float = 0", "2", 2.0),
        ("a: bool = False", "true", True),
        ("a: str = ''", "3", "3"),
        ("a: int | None = None", "none", None),
        ("a: float | None = None", "0.5", 0.5),
        ("a: list[int] = []", "1,2", [1, 2]),
        ("a: list[str] = []", "[a, b]", ["a", "b"]),
    ],
)
def test_text_is_read_as_the_declared_type(declaration, text, value):
    parameter = parameters.declared(declaration)["a"]
    read = parameters.parsed(text, parameter)
    assert read == value
    assert type(read) is type(value)
    assert parameters.parsed(parameters.as_text(value), parameter) == value


@pytest.mark.parametrize(
    ("declaration", "text"),
    [
        ("a: int = 0", "1.5"),
        ("a: int = 0", "x"),
        ("a: bool = False", "1"),
        ("a: list[int] = []", "a,b"),
        ("a: float = 0.0", ""),
    ],
)
def test_text_of_another_type_is_refused(declaration, text):
    with pytest.raises(InputError, match="it takes"):
        parameters.parsed(text, parameters.declared(declaration)["a"])


@pytest.mark.parametrize(("name", "value"), [("seed", True), ("seed", 1.0), ("size", "3"), ("dataset", 3)])
def test_begin_refuses_a_wrong_type(toys, name, value):
    with pytest.raises(InputError, match=name):
        start(toys, **{name: value})
    assert not toys.runs


def test_profile_fills_none_and_what_is_given_wins(toys):
    toys.profiles({"cpu": "all: {size: 5, other: 1}\n10_one: {size: 7}", "smoke": "all: {size: 5}"})
    line = "size: int | None = None  # things; None: what the profile says"
    _, variables = start(toys, line=line, size=None)
    assert variables["size"] == 7
    _, variables = start(toys, line=line, size=None, profile="smoke")
    assert variables["size"] == 5
    _, variables = start(toys, line=line, size=9)
    assert variables["size"] == 9


@pytest.mark.parametrize("section", ["10_one: {sise: 3}", "10_one: {size: x}", "10_one: {seed: 3}"])
def test_profile_file_is_checked(toys, section):
    toys.profiles({"cpu": section})
    with pytest.raises(InputError):
        start(toys, line="size: int | None = None  # things", size=None)


def test_unknown_profile_names_those_that_exist(toys):
    with pytest.raises(InputError, match="cpu, smoke"):
        start(toys, profile="huge")


def test_expect_raises_only_where_the_range_was_calibrated(toys, capsys):
    start(toys)
    expect("a.b", 0.5, low=0.5, high=0.5, why="ends belong to the range")
    with pytest.raises(OutOfRange, match="it would be odd"):
        expect("a.b", 0.6, low=0, high=0.5, why="it would be odd")
    start(toys, seed=4)
    with pytest.raises(OutOfRange):
        expect("a.b", 0.6, low=0, high=0.5, why="any seed")
    for free in ({"size": 4}, {"dataset": "monuseg"}, {"profile": "smoke"}):
        start(toys, **free)
        expect("a.monuseg.b", 0.6, low=0, high=0.5, why="it would be odd")
        assert ("outside the range seen on" in capsys.readouterr().out) == (free != {"profile": "smoke"})
        assert record._current.metrics["a.monuseg.b"] == 0.6


def test_nan_fails_in_range_and_at_smoke_and_is_recorded_as_null(toys):
    for profile in ("cpu", "smoke"):
        run, _ = start(toys, profile=profile)
        with pytest.raises(OutOfRange, match="undefined"):
            expect("a.b", math.nan, low=0, high=1, why="must be a number")
        assert json.loads((run.folder / "metrics.json").read_text()) == {"a.b": None}


def test_report_writes_value_and_interval(toys):
    run, _ = start(toys)
    report("a.b", np.float32(0.5), 0.25, np.nan)
    report("a.n", np.int64(3))
    run.done()
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics == {"a.b": 0.5, "a.b.lo": 0.25, "a.b.hi": None, "a.n": 3}


def test_a_notebook_shows_names_in_styled_tables_as_text(toys):
    with pd.option_context("styler.format.escape", None):
        start(toys)
        assert "<b>" not in pd.DataFrame({"a": ["<b>x"]}).style.to_html()


def test_nothing_is_recorded_before_begin(toys):
    with pytest.raises(InputError, match="begin"):
        report("a", 1)


def test_figure_is_saved_with_the_run(toys):
    import matplotlib.pyplot as plt

    run, _ = start(toys)
    _, ax = plt.subplots()
    run.figure("one", ax)
    plt.close()
    assert (run.folder / "figures" / "one.png").stat().st_size > 1000


def test_done_moves_the_stage_and_says_what_ran(toys):
    run, _ = start(toys)
    (run.stage / "x.txt").write_text("x")
    filling = run.stage
    run.done()
    assert not filling.exists()
    assert (run.stage / "x.txt").read_text() == "x"
    assert stages.read_marker(run.stage)["run"] == run.folder.name
    told = manifest.read_json(run.folder / "manifest.json")
    assert told["status"] == "complete"
    for name in ("parameters", "versions", "git", "data", "seed", "device", "seconds", "peak", "outputs", "machine"):
        assert name in told
    assert told["exact"] is False  # these calls were not a notebook's cells
    assert not (toys.folder / "runs" / "latest").exists()


def test_stage_without_its_marker_is_not_whole(toys):
    run, _ = start(toys)
    run.done()
    assert stages.read_marker(run.stage)
    (run.stage / stages.MARKER).write_text('{"note')
    assert stages.read_marker(run.stage) is None


def test_inputs_must_be_named_in_the_header(toys):
    toys.add("11_two")
    run, _ = start(toys)
    with pytest.raises(InputError, match="needs"):
        run.inputs("11_two")


def test_key_changes_with_whatever_decides_the_outputs(toys, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("1")
    toys.add("10_one", "x = 1", parameters="size: int = 3")
    toys.add("11_two", needs="10_one")

    def key(name="11_two", **given):
        return stages.stage_key(stages.find_notebook(name), given)

    keys = [key(), key(seed=1), key(size=4), key(dataset="mine", data_dir=str(data))]
    assert key(device="cuda", out="elsewhere") == keys[0]
    (data / "a.csv").write_text("2")
    keys.append(key(dataset="mine", data_dir=str(data)))
    toys.add("10_one", "x = 2", parameters="size: int = 3")
    keys.append(key())
    monkeypatch.setattr(stages, "library_hash", lambda: "other code")
    keys.append(key())
    toys.add("11_two", needs="10_one", header="# tables: [a_study]\n")
    for text in ("value\n1\n", "value\n2\n"):  # a committed study that the notebook shows
        (toys.folder / "data" / "results").mkdir(parents=True, exist_ok=True)
        (toys.folder / "data" / "results" / "a_study.csv").write_text(text)
        keys.append(key())
    assert len(set(keys)) == len(keys)


def test_library_hash_covers_tables_and_leaves_the_runner_out(toys):
    before = stages.library_hash()
    stages.library_hash.cache_clear()
    (toys.folder / "data").mkdir()
    (toys.folder / "data" / "markers.csv").write_text("gene")
    assert stages.library_hash() != before
    stages.library_hash.cache_clear()


def write_run(runs, name, used, metrics, **more):
    told = {"id": name, "notebook": "12_x", "dataset": "virtual", "profile": "cpu", "status": "complete", "exact": True}
    told |= {"given": {}, "used": used, "seconds": 10.0} | more
    manifest.write_json(runs / name / "manifest.json", told)
    manifest.write_json(runs / name / "metrics.json", metrics)


def test_latest_merges_the_newest_of_each_kind(tmp_path):
    write_run(tmp_path, "a", "2", {"k": 2, "gone": 1})
    write_run(tmp_path, "b", "3", {"k": 3}, given={"steps": 5})
    write_run(tmp_path, "c", "1", {"k": 1, "gone": 0})
    write_run(tmp_path, "smoke", "9", {"k": 9}, profile="smoke")
    write_run(tmp_path, "failed", "9", {"k": 9}, status="failed")
    write_run(tmp_path, "edited", "9", {"k": 9}, exact=False)
    write_run(tmp_path, "gpu", "1", {"k": 0, "g": 1}, profile="gpu")
    write_run(tmp_path, "real", "9", {"p.monuseg.aji": 0.6, "p.virtual_to_real.aji": 0.5, "k": 7}, dataset="monuseg")
    assert latest.merge(tmp_path) == {"k": 3, "g": 1, "p.monuseg.aji": 0.6, "p.virtual_to_real.aji": 0.5}
    sources = manifest.read_json(tmp_path / "latest" / "sources.json")
    assert sources == {"k": "b", "g": "gpu", "p.monuseg.aji": "real", "p.virtual_to_real.aji": "real"}


def test_a_key_of_real_data_names_them_as_a_word():
    assert latest.names_data("part1.monuseg.aji", "monuseg")
    assert latest.names_data("part1.typing.merfish_accuracy.recipe", "merfish")
    assert latest.names_data("part1.virtual_to_real.aji", "monuseg")
    assert not latest.names_data("part1.unseen.bpq", "monuseg")
    assert not latest.names_data("part1.typing.virtual_accuracy", "merfish")


def test_part1_seconds_needs_all_five_notebooks(tmp_path):
    for number in ("10", "11", "12", "14"):
        write_run(tmp_path, f"r{number}", "1", {}, notebook=f"{number}_x")
    assert "part1.seconds" not in latest.merge(tmp_path)
    write_run(tmp_path, "r13", "1", {}, notebook="13_x", seconds=2.5)
    write_run(tmp_path, "r13real", "2", {}, notebook="13_x", seconds=500, dataset="monuseg")
    assert latest.merge(tmp_path)["part1.seconds"] == 42.5


def test_each_part_has_its_seconds(tmp_path):
    for number in ("20", "21", "22", "23"):
        write_run(tmp_path, f"r{number}", "1", {}, notebook=f"{number}_x", seconds=2.5)
    merged = latest.merge(tmp_path)
    assert (merged["part2.seconds"], "part1.seconds" in merged, "part3.seconds" in merged) == (10.0, False, False)


def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path):
    manifest.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest.write_json(tmp_path / "a.json", {"a": math.nan})
    assert manifest.read_json(tmp_path / "a.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
