"""The shortest honest script for one's own tiles is short, runs from a folder, and never mixes patients."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from stpath_core import tissue
from stpath_core.tissue.histology import instance_mask

SCRIPT = ROOT / "docs" / "your_tiles.py"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Three patients with two tiles each, as PNG with masks."""
    folder = tmp_path_factory.mktemp("tiles")
    for patient in range(3):
        section = tissue.make_section("breast", patient=patient, seed=patient, size_um=(140, 140), mpp=0.5)
        mask = instance_mask(section.arch.nuclei_um, mpp=0.5, shape=section.image.shape[:2])
        for half, rows in enumerate((slice(0, 128), slice(128, 256))):
            for kind, pixels in (("images", section.image[rows, :128]), ("labels", mask[rows, :128].astype(np.uint16))):
                (folder / kind).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(folder / kind / f"p{patient}_{half}.png")
    return folder


def run(folder, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_has_at_most_thirty_lines():
    code = SCRIPT.read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def test_it_trains_and_judges_by_patient_beside_a_tuned_baseline(tiles, tmp_path):
    done = run(tmp_path, tiles, 0.5, 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"nuclei_fold{k}.safetensors" for k in range(3)]
    assert all(word in done.stdout for word in ("network", "classical", "bpq", "detection_f1"))
    sign_p = float(re.search(r"network minus classical: Difference\(.*sign_p=([\d.]+)\)", done.stdout)[1])
    assert sign_p >= 0.25, "three patients, not six tiles, are what a sign test can count"


def test_a_patient_alone_gets_one_clear_error(tiles, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for path in (tiles / kind).glob("p0_*"):
            (tmp_path / kind / path.name).write_bytes(path.read_bytes())
    done = run(tmp_path, tmp_path, 0.5, 2)
    assert "come from 1 patient" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.safetensors"))
