"""Several processes that train one network take the steps that one process takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import ranks_child
import stage_files
from conftest import ROOT
from stpath_core import cli, ranks
from stpath_core.errors import InputError

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(words: list[str], **more: str) -> None:
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_two_processes_are_one_within_rounding(tmp_path):
    run([*TORCHRUN, str(ROOT / "tests" / "ranks_child.py"), str(tmp_path / "two.safetensors")])
    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        assert file.metadata()["processes"] == "2"
    two = load_file(tmp_path / "two.safetensors")
    for work in (ranks_child.mean_of_rows, ranks_child.contrast, ranks_child.convolutions):
        model, history = work()
        losses = torch.tensor([r["loss"] for r in history])
        assert losses[-1] < losses[0]
        torch.testing.assert_close(two[f"{work.__name__}.losses"], losses, atol=2e-4, rtol=2e-4)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(two[f"{work.__name__}.{name}"], value.float(), atol=1e-3, rtol=1e-3)


def test_torchrun_of_the_command_shares_the_folds_of_part_2(tmp_path):
    stage_files.write_all(tmp_path)
    words = ["fit", str(tmp_path / "spots.h5"), "--profile", "smoke", "--device", "cpu", "--out"]
    run([*TORCHRUN, "-m", "stpath_core", *words, str(tmp_path / "two")])
    assert cli.main([*words, str(tmp_path / "one")]) == cli.OK
    told = [json.loads((tmp_path / name / "fit.json").read_text()) for name in ("one", "two")]
    assert told[0]["patients"] == told[1]["patients"]
    assert len(told[0]["patients"]) == 4
    for name in ("cpnn_spots_0.safetensors", "cpnn_spots_1.safetensors"):
        one, two = (load_file(Path(tmp_path, folder, name)) for folder in ("one", "two"))
        assert all(torch.equal(one[k], two[k]) for k in one)


def test_rows_are_shared_evenly_and_a_rest_is_left_out(monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: 3)
    seen = []
    for who in range(3):
        monkeypatch.setattr(ranks, "rank", lambda who=who: who)
        seen += list(range(11))[ranks.share(11)]
    assert sorted(seen) == list(range(9))
    with pytest.raises(InputError, match="a batch of 2 cannot be shared by 3"):
        ranks.share(2)
