"""Killed at any moment, a save leaves the old or the new file, and training goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import stage_files
from conftest import ROOT
from stpath_core import cli, comparison, ranks, sweep
from stpath_core.errors import InputError
from stpath_core.fit import fit
from stpath_core.io import files
from stpath_core.io.files import atomic_path, only_one
from test_fit import batch_at, new_model, step_loss

KILLS = int(os.environ.get("STPATH_KILLS", "20"))
HEAD = f"import os, signal, sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"

SAVES = (
    HEAD
    + """
import itertools
from stpath_core.io.files import atomic_path

for i in itertools.count():  # piece by piece: safetensors from 0.8 on writes aside by itself, other writers do not
    with atomic_path(sys.argv[1]) as aside, aside.open("wb") as file:
        for _ in range(40):
            file.write(bytes([i % 256]) * 25_000)
            file.flush()
    print(i, flush=True)
"""
)
STAYS = (
    HEAD
    + """
import time
from stpath_core.io.files import atomic_path

with atomic_path(sys.argv[1]) as aside:
    aside.write_text("half")
    print(aside.parent, flush=True)
    time.sleep(600)
"""
)
TRAINS = (
    HEAD
    + """
from test_fit import batch_at, new_model, step_loss
from stpath_core.fit import fit

def hook(step, _):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)

fit(new_model(), step_loss, batch_at, steps=10, seed=3, resume=sys.argv[1], save_every=5, hook=hook)
"""
)
WRITES = (
    HEAD
    + """
from pathlib import Path
from stpath_core import manifest

who = int(sys.argv[2])
for i in range(150):
    manifest.write_json(Path(sys.argv[1]), {"who": who, "values": [who] * 5_000})
"""
)


FILLS = (
    HEAD
    + """
from stpath_core.io.files import atomic_folder

for _ in range(200):
    with atomic_folder(sys.argv[1]) as aside:
        for name in "abc":
            (aside / name).write_text(sys.argv[2])
"""
)


HOLDS = {  # a call of each that has begun to work, and does not end
    "sweep": HEAD
    + """
import time
from pathlib import Path
from stpath_core import sweep

def at_work(point, threads):
    print("works", flush=True)
    time.sleep(60)

sweep.run_point = at_work
sweep.sweep(sweep.plan(Path("grid.yaml"), sys.argv[1])[0])
""",
    "fit": HEAD
    + """
import time
from pathlib import Path
from stpath_core import stage_fit

def at_work(path, options):
    print("works", flush=True)
    time.sleep(60)

stage_fit.FITS["stpath.spots/1"] = at_work
stage_fit.fit_stage("spots.h5", stage_fit.Options(profile="smoke", out=Path(sys.argv[1])))
""",
}
BEGINS = (
    HEAD
    + """
import datetime
from pathlib import Path
from stpath_core import record, stages

class Clock(datetime.datetime):
    @classmethod
    def now(cls):
        return cls(2026, 1, 1)

datetime.datetime = Clock
notebook = stages.read_notebook(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(50):
    print(record.new_folder(notebook, notebook.resolve({})), flush=True)
"""
)


def child(program, *words, **options):
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_sigkill_during_saves_leaves_the_old_or_the_new_file(tmp_path):
    path, rng = tmp_path / "a.bin", torch.Generator().manual_seed(0)
    process = child(SAVES, path)
    for _ in range(KILLS):
        process.stdout.readline()  # one save is whole
        time.sleep(0.03 * torch.rand(1, generator=rng).item())
        process.kill()
        process.wait()
        process.stdout.close()
        content = path.read_bytes()
        assert len(content) == 1_000_000
        assert len(set(content)) == 1
        process = child(SAVES, path)
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_killed_processes_left_aside_is_removed_and_nothing_else(tmp_path):
    processes = [child(STAYS, tmp_path / f"{i}.txt") for i in range(3)]
    gone, fresh, alive = (Path(process.stdout.readline().strip()) for process in processes)
    for process in processes[:2]:
        process.kill()
        process.wait()
    only_copy = tmp_path / ".writing-x" / "y" / "old"  # a folder whose process was killed between its two renames
    only_copy.mkdir(parents=True)
    for folder in (gone, alive, only_copy.parents[1]):
        os.utime(folder, (0, 0))  # long ago
    try:
        with atomic_path(tmp_path / "new.txt") as aside:
            aside.write_text("whole")
        assert not gone.exists()
        assert fresh.exists()  # it may have begun just now
        assert (alive / "2.txt").read_text() == "half"
        assert only_copy.exists()
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What a process left that was killed at step 8 of 10, and had saved at step 5."""
    state = tmp_path_factory.mktemp("killed") / "resume.safetensors"
    process = child(TRAINS, state)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return state


def test_five_steps_a_kill_and_five_more_are_ten_bit_for_bit(killed, tmp_path):
    whole, state = new_model(), Path(shutil.copy(killed, tmp_path))
    expected = fit(whole, step_loss, batch_at, steps=10, seed=3)
    again = new_model()
    for value in again.state_dict().values():
        value.zero_()
    seen = []
    history = fit(again, step_loss, batch_at, steps=10, seed=3, resume=state, hook=lambda step, _: seen.append(step))
    assert seen == [6, 7, 8, 9, 10]
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("damage", ["cut", "foreign", "other network"])
def test_a_state_that_cannot_be_taken_up_is_one_clear_error(killed, tmp_path, damage):
    state = Path(shutil.copy(killed, tmp_path))
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:500])
    if damage == "foreign":
        state.write_bytes(b"\x80\x04.")
    model = torch.nn.Linear(4, 1) if damage == "other network" else new_model()
    with pytest.raises(InputError, match=r"resume\.safetensors.*remove the file"):
        fit(model, step_loss, batch_at, steps=10, seed=3, resume=state)


def test_two_processes_that_write_one_file_leave_one_of_both(tmp_path):
    path = tmp_path / "latest" / "metrics.json"
    writers = [child(WRITES, path, who) for who in (1, 2)]
    seen = set()
    while any(w.poll() is None for w in writers):
        if path.exists():
            content = json.loads(path.read_text())
            assert content["values"] == [content["who"]] * 5_000
            seen.add(content["who"])
    assert [w.wait() for w in writers] == [0, 0]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
    for w in writers:
        w.stdout.close()


def test_two_processes_that_replace_one_folder_leave_one_of_both_whole(tmp_path):
    path = tmp_path / "stage"
    fillers = [child(FILLS, path, who) for who in (1, 2)]
    assert [f.communicate()[0] for f in fillers] == ["", ""]
    assert [f.returncode for f in fillers] == [0, 0]
    assert {(p.name, p.read_text()) for p in path.iterdir()} in [{(n, w) for n in "abc"} for w in "12"]
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_replaced_in_one_step_where_the_system_swaps_names(tmp_path, monkeypatch, swaps):
    """What a SIGKILL leaves is what a reader sees at that moment: with a swap the folder, at all times."""
    if not swaps:
        monkeypatch.setattr(files, "_swapped", lambda *_: False)
    else:
        names = [tmp_path / "one", tmp_path / "other"]
        for name in names:
            name.mkdir()
        if not files._swapped(*names):
            pytest.skip("system or disk cannot swap names")
        for name in names:
            name.rmdir()
    path, missed, done = tmp_path / "stage", [], threading.Event()

    def look():
        while not done.is_set():
            if not path.is_dir():
                missed.append(path)

    def fill(text):
        with files.atomic_folder(path) as aside:
            (aside / "a").write_text(text)

    fill("0")
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for k in range(300):
                fill(str(k))
        finally:
            done.set()
        looking.result()
    assert (path / "a").read_text() == "299"
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]
    assert not swaps or not missed


def test_runs_that_begin_in_the_same_second_get_folders_of_their_own(toys):
    path = toys.add("10_one")
    runs = [child(BEGINS, path, stdin=subprocess.PIPE) for _ in range(2)]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 2
    for run in runs:  # both are loaded: they go at once
        run.stdin.write("go\n")
        run.stdin.flush()
    folders = [line for run in runs for line in run.communicate()[0].split()]
    assert [run.returncode for run in runs] == [0, 0]
    assert len(set(folders)) == len(folders) == 100
    assert all(Path(folder).is_dir() for folder in folders)


def as_it_is(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in [folder, *folder.rglob("*")]}


def call(what, out):
    """The same call as the process that holds the folder has made, by the command line."""
    words = {"sweep": ["sweep", "grid.yaml"], "fit": ["fit", "spots.h5", "--profile", "smoke", "--device", "cpu"]}
    return cli.main([*words[what], "--out", str(out)])


@pytest.mark.parametrize("what", list(HOLDS))
def test_of_two_in_one_folder_the_second_is_refused_until_the_first_is_gone(toys, capsys, monkeypatch, what):
    toys.add("10_one", parameters="size: int = 2  # things")
    Path("grid.yaml").write_text("notebooks: [10]\nfixed: {profile: smoke}\ngrid: {size: [3, 4]}\n")
    stage_files.write_spots(Path("spots.h5"))
    if what == "fit":
        monkeypatch.delenv("STPATH_HOME")  # the profile is of the project's own notebook
    out = Path("both").absolute()
    first = child(HOLDS[what], out)
    assert first.stdout.readline() == "works\n"
    before = as_it_is(out)
    assert call(what, out) == cli.USAGE
    said = capsys.readouterr().err
    assert f"another process ({first.pid}) works in {out}" in said
    assert "give another folder" in said
    assert as_it_is(out) == before
    first.kill()
    first.communicate()
    monkeypatch.setattr(sweep, "run_point", lambda point, threads: ("ok", 0.0))
    monkeypatch.setattr(comparison, "write", lambda *given, **more: (out, out))
    monkeypatch.setattr(comparison, "lines", lambda *given: [])
    assert call(what, out) == cli.OK
    assert not (out / ".in-use").exists()


POINT = (
    HEAD
    + """
import subprocess
from pathlib import Path
from stpath_core import sweep

begin, lives = subprocess.Popen, "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
sweep.subprocess.Popen = lambda words, **how: begin([sys.executable, "-c", lives], **how)
sweep.sweep(sweep.plan(Path("grid.yaml"), sys.argv[1])[0])
"""
)


def test_a_point_that_outlives_its_killed_sweep_is_not_begun_again_meanwhile(toys):
    toys.add("10_one", parameters="size: int = 2  # things")
    Path("grid.yaml").write_text("notebooks: [10]\nfixed: {profile: smoke}\ngrid: {size: [3]}\n")
    out = Path("both").absolute()
    (point,), _ = sweep.plan(Path("grid.yaml"), out)
    first, log = child(POINT, out), point.folder / "log.txt"
    try:
        end = time.monotonic() + 120
        while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        first.kill()
        first.communicate()
    running, said = int(log.read_text()), []
    try:
        assert sweep.sweep([point], say=said.append) == {"size=3": "failed"}
        assert f"another process ({running}) works in {point.folder}" in said[-1]
        assert log.read_text() == f"{running}\n"
    finally:
        os.kill(running, signal.SIGKILL)
    end = time.monotonic() + 20
    while Path(f"/proc/{running}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert sweep.sweep([point]) == {"size=3": "ok"}


def test_a_training_of_several_processes_is_refused_in_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    monkeypatch.setattr(ranks, "collected", lambda mine: {"why": "the first could not", **mine})
    with pytest.raises(InputError, match="the first could not"), ranks.only_training(tmp_path / "out"):
        pytest.fail("the block was entered")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_made_for_nothing_is_gone(tmp_path):
    with only_one(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with only_one(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "kept"]
