"""Killed at any moment, a save leaves the old or the new file, and training goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from stpath_core import record, stages
from stpath_core.errors import InputError
from stpath_core.fit import fit
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


def child(program, *words):
    return subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True)


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


def test_runs_that_begin_in_the_same_second_get_folders_of_their_own(toys):
    notebook = stages.read_notebook(toys.add("10_one"))
    folders = [record.new_folder(notebook, notebook.resolve({})) for _ in range(5)]
    assert len(set(folders)) == 5
