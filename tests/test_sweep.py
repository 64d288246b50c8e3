"""`stpath sweep`: all points once, finished ones never again, and a comparison that trusts nothing that a run says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from conftest import ROOT, interrupt, started, wait_until
from stpath_core import cli, comparison, manifest, sweep
from stpath_core.errors import InputError

WORK = """\
from pathlib import Path
calls = Path("calls.txt")
with calls.open("a") as file:
    file.write(f"{size}-{seed}\\n")
report("part1.size", size + seed / 10, size - 1, size + 1)"""
GRID = "notebooks: [10]\nfixed: {profile: smoke}\ngrid: {size: [3, 4], seed: [0, 1]}\n"


def stpath(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture
def home(toys, monkeypatch):
    toys.add("10_one", WORK, parameters="size: int = 2  # things")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (toys.folder.parent / "grid.yaml").write_text(GRID)
    return toys


def calls(home):
    path = home.folder.parent / "calls.txt"
    return sorted(path.read_text().split()) if path.exists() else []


def test_every_point_runs_once_on_two_workers_and_is_compared(home, capsys):
    assert stpath("sweep", "grid.yaml", "--workers", 2) == cli.OK
    assert calls(home) == ["3-0", "3-1", "4-0", "4-1"]
    folder = home.folder / "runs" / "sweeps" / "grid"
    table = pd.read_csv(folder / "comparison.csv")
    assert sorted(table["value"]) == [3.0, 3.1, 4.0, 4.1]
    assert set(table["size"]) == {3, 4}
    page = (folder / "comparison.html").read_text()
    assert "part1.size" in page
    assert "data:image/png" in page
    assert stpath("sweep", "grid.yaml") == cli.OK
    assert len(calls(home)) == 4
    assert "4 of 4 points are finished and kept" in capsys.readouterr().out


def test_a_longer_grid_runs_what_is_new_and_changed_code_runs_all(home):
    short = GRID.replace("[0, 1]", "[0]")
    for sizes in ("[3]", "[3, 4]"):
        (home.folder.parent / "grid.yaml").write_text(short.replace("[3, 4]", sizes))
        assert stpath("sweep", "grid.yaml", "--workers", 2) == cli.OK
    assert calls(home) == ["3-0", "4-0"]
    home.add("10_one", WORK + "\nother = 1", parameters="size: int = 2  # things")
    points, _ = sweep.plan(home.folder.parent / "grid.yaml")
    assert not any(point.finished for point in points)


def test_killed_half_way_it_repeats_no_finished_point(home):
    slow = WORK + "\nimport time\ntime.sleep(0 if size == 3 else 300 * (not Path('go').exists()))"
    home.add("10_one", slow, parameters="size: int = 2  # things")
    words = [sys.executable, "-m", "stpath_core", "sweep", "grid.yaml"]
    process = started(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert wait_until(lambda: "4-0" in calls(home), 300)
    interrupt(process)
    assert calls(home) == ["3-0", "3-1", "4-0"]
    (home.folder.parent / "go").touch()
    assert stpath("sweep", "grid.yaml") == cli.OK
    assert calls(home) == ["3-0", "3-1", "4-0", "4-0", "4-1"]


def test_a_point_that_fails_is_told_and_the_others_are_compared(home, capsys):
    home.add("10_one", WORK + "\nassert size < 4", parameters="size: int = 2  # things")
    (home.folder.parent / "grid.yaml").write_text(GRID.replace("[0, 1]", "[0]"))
    assert stpath("sweep", "grid.yaml", "--workers", 2) == cli.FAILED
    said = capsys.readouterr().out
    assert said.count("failed after") == 1
    assert "log.txt" in said
    table = pd.read_csv(home.folder / "runs" / "sweeps" / "grid" / "comparison.csv")
    assert table["value"].tolist() == [3.0]


def test_points_run_on_a_dask_scheduler(home):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        points, _ = sweep.plan(home.folder.parent / "grid.yaml")
        ended = sweep.sweep(points[:2], scheduler=cluster.scheduler_address, say=lambda _: None)
    assert set(ended.values()) == {"ok"}
    assert calls(home) == ["3-0", "3-1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds nothing"),
        ("- 1", "holds a list"),
        ("grid: {size: 3}\nnotebooks: [10]", "is no sweep"),
        ("grid: {size: []}\nnotebooks: [10]", "is no sweep"),
        ("grid: {size: [1]}", "is no sweep"),
        ("grid: {size: [1]}\nnotebooks: [{a: 1}]", "is no sweep"),
        ("grid: {size: [1, 1]}\nnotebooks: [10]", "twice"),
        ("grid: {size: [1]}\nfixed: {size: 2}\nnotebooks: [10]", "either varied or fixed"),
        ("grid: {out: [a, b]}\nnotebooks: [10]", "--out"),
        ("grid: {sise: [1]}\nnotebooks: [10]", "did you mean size"),
        ("grid: {size: [x]}\nnotebooks: [10]", "takes int"),
        ("grid: {size: [1]}\nnotebooks: [77]", "no notebook '77'"),
        ("gird: {size: [1]}\nnotebooks: [10]", "did you mean grid"),
        ("grid: {size: !!python/object/apply:os.system ['touch evil']}\nnotebooks: [10]", "must be YAML"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused_before_anything_runs(home, capsys, text, said):
    (home.folder.parent / "grid.yaml").write_text(text)
    assert stpath("sweep", "grid.yaml") == cli.USAGE
    assert said in capsys.readouterr().err
    assert not calls(home)
    assert not (home.folder / "runs").exists()
    assert not (home.folder.parent / "evil").exists()


def test_too_many_points_no_workers_and_no_scheduler_are_refused(home, capsys):
    (home.folder.parent / "grid.yaml").write_text(yaml.safe_dump({
        "notebooks": [10], "grid": {"size": list(range(101)), "seed": list(range(100))},
    }))  # fmt: skip
    assert stpath("sweep", "grid.yaml") == cli.USAGE
    assert "10,100 points" in capsys.readouterr().err
    (home.folder.parent / "grid.yaml").write_text(GRID)
    assert stpath("sweep", "grid.yaml", "--workers", 0) == cli.USAGE
    assert stpath("sweep", "grid.yaml", "--scheduler", "tcp://127.0.0.1:1") == cli.USAGE
    assert "no Dask scheduler answers" in capsys.readouterr().err


def test_a_value_is_data_and_never_code(home):
    home.add("10_one", 'open("seen.txt", "w").write(word)', parameters='word: str = "a"  # any text')
    smuggled = '"""; open("evil", "w").write("x"); """'
    (home.folder.parent / "grid.yaml").write_text(
        yaml.safe_dump({"notebooks": [10], "fixed": {"profile": "smoke"}, "grid": {"word": [smuggled]}})
    )
    assert stpath("sweep", "grid.yaml") == cli.OK
    assert (home.folder.parent / "seen.txt").read_text() == smuggled
    assert not (home.folder.parent / "evil").exists()


def make_run(folder, name, *, metrics, parameters, seed=0, **more):
    about = {"id": name, "notebook": "10_one", "dataset": "virtual", "profile": "cpu", "status": "complete"}
    about |= {"begun": "2026-01-01T00:00:00", "seconds": 1.0, "git": {"revision": "a" * 40}, "seed": seed}
    manifest.write_json(folder / name / "manifest.json", about | {"parameters": {"seed": seed, **parameters}} | more)
    manifest.write_json(folder / name / "metrics.json", metrics)


def test_markup_from_a_run_stays_text(tmp_path):
    bad = "<script>alert(1)</script>"
    for k in range(2):
        make_run(
            tmp_path,
            f"r{k}{bad.replace('/', '')}",
            metrics={f"part1.{bad}": k + 1.0},
            parameters={"word": k, "bad": bad * k},
        )
    page, _ = comparison.write([tmp_path], tmp_path / "to", title=bad)
    text = page.read_text()
    assert "<script" not in text.lower()
    assert "&lt;script&gt;" in text


def test_text_from_a_run_is_no_formula_to_a_spreadsheet(tmp_path):
    words = ["=1+1", "+1", "-1+1", "@SUM(A1)", "a=1", "\t=1"]
    for k, word in enumerate(words):
        make_run(tmp_path, f"={k}", metrics={f"={word}": -k - 0.5}, parameters={"=word": word, "shift": -k})
    _, flat = comparison.write([tmp_path], tmp_path / "to")
    table = pd.read_csv(flat).sort_values("shift", ascending=False)
    assert table["'=word"].tolist() == ["'=1+1", "'+1", "'-1+1", "'@SUM(A1)", "a=1", "'\t=1"]
    assert table["run"].tolist() == [f"'={k}" for k in range(6)]
    assert table["key"].tolist() == [f"'={word}" for word in words]
    assert table["value"].tolist() == [-k - 0.5 for k in range(6)]
    assert table["shift"].tolist() == [-k for k in range(6)]


def test_seeds_are_summed_up_and_single_runs_keep_their_interval(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path, f"a{seed}", metrics={"k": seed + 1.0}, parameters={"steps": 10}, seed=seed)
    make_run(tmp_path, "b", metrics={"k": 7.0, "k.lo": 6.0, "k.hi": 9.0}, parameters={"steps": 20})
    table = comparison.beside(*comparison.collect(comparison.find_runs([tmp_path]))).set_index("steps")
    assert table.loc[10, ["n", "mean", "lowest", "highest"]].tolist() == [3, 2.0, 1.0, 3.0]
    assert pd.isna(table.loc[10, "lo"])
    assert table.loc[20, ["n", "mean", "lo", "hi"]].tolist() == [1, 7.0, 6.0, 9.0]


def test_a_number_outside_its_range_and_an_undefined_one_are_told(tmp_path):
    checks = [{"key": "k", "value": 7.0, "low": 0, "high": 1, "inside": False, "why": "x"}]
    make_run(tmp_path, "a", metrics={"k": 7.0, "u": None}, parameters={}, expectations=checks)
    table = comparison.beside(*comparison.collect(comparison.find_runs([tmp_path]))).set_index("key")
    assert table.loc["k", "outside"] == 1
    assert pd.isna(table.loc["u", "mean"])


def test_report_compares_named_runs_and_refuses_what_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k in range(2):
        make_run(tmp_path, f"r{k}", metrics={"part1.size": k + 0.5}, parameters={"steps": k})
    assert stpath("report", "r0", "r1", "--to", "compared") == cli.OK
    said = capsys.readouterr().out
    assert "part1.size" in said
    assert (tmp_path / "compared" / "comparison.csv").is_file()
    (tmp_path / "empty").mkdir()
    assert stpath("report", "empty") == cli.USAGE
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text(json.dumps({"a": 1}))
    odd = comparison.find_runs([tmp_path / "odd"])
    with pytest.raises(InputError, match="says its notebook"):
        comparison.collect(odd)


def test_a_folder_that_cannot_be_written_stops_before_anything_runs(home, capsys):
    if os.geteuid() == 0:
        (home.folder.parent / "file").write_text("x")
        place = home.folder.parent / "file" / "below"
    else:
        place = home.folder.parent / "closed"
        place.mkdir(mode=0o500)
    assert stpath("sweep", "grid.yaml", "--out", place) == cli.USAGE
    assert capsys.readouterr().err
    assert not calls(home)
