"""The benchmarks' own arithmetic, and equal results before any race; nothing here asserts a time."""

from __future__ import annotations

import json
import re
import sys

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import rankdata

import stage_files
from conftest import ROOT
from stpath_core import correlation

sys.path.insert(0, str(ROOT / "benchmarks"))

import beside
import gpu
import gpu_frozen
import scaling
import speed_genes
import speed_spots
import table


def test_a_race_gives_a_ratio_for_whoever_agrees():
    rows = beside.race("sum", "3", lambda: 6, {"a": lambda: 6.0}, equal={"a": beside.close(0)}, goal={"a": 1e-9})
    assert rows[0]["ratio"] == pytest.approx(rows[0]["peer_ms"] / rows[0]["ours_ms"], rel=0.02)
    assert rows[0]["met"]


def test_a_race_refuses_another_result_and_says_who_is_absent():
    with pytest.raises(AssertionError):
        beside.race("sum", "3", lambda: 6, {"a": lambda: 7}, equal={"a": beside.close(0.5)})

    def absent():
        raise ImportError("no_such_peer")

    rows = beside.race("sum", "3", lambda: 6, {"a": absent}, equal={"a": beside.close(0)})
    assert "no_such_peer" in rows[0]["not_measured"]


def test_the_slope_of_a_square_is_two():
    work = np.array([1.0, 10, 100])
    assert scaling.slope(work, 3 * work**2) == 2


def test_counts_on_the_raster_agree_with_the_outlines():
    rows = speed_spots.transcripts(36, 2000)
    assert "alike" in next(r for r in rows if "STRtree" in r["peer"])["equal"]


def test_our_likelihood_and_its_gradient_are_torchs_before_they_race():
    rows = speed_genes.likelihood(20, 30)
    assert "each gradient within" in next(r for r in rows if r["peer"] == "torch.distributions")["equal"]


def test_ranks_of_float32_are_scipys_to_the_last_digit():
    true, pred = speed_genes.pair(301, 7)
    pred[:5, 0], pred[5:9, 0] = -0.0, 0.0
    pred[0, 1], pred[1, 1] = np.inf, -np.inf
    for values in (true, pred, -true, true.astype(float)):
        assert np.array_equal(correlation.average_ranks(values), rankdata(values, axis=0).astype(np.float32))


def test_pearson_in_blocks_is_pearson():
    true, pred = speed_genes.pair(50, 3000)
    true[:, 7] = 1.0
    wanted = [np.corrcoef(true[:, g].astype(float), pred[:, g].astype(float))[0, 1] for g in range(3000) if g != 7]
    found = correlation.pearson(true, pred)
    assert np.isnan(found[7])
    np.testing.assert_allclose(np.delete(found, 7), wanted, atol=1e-5)


def test_pearson_is_exact_whatever_the_rows_that_it_looks_at_first():
    """The rows of its first look lie 500 SD apart from all others, or one row lies 100,000 apart."""
    rng = np.random.default_rng(0)
    for n in (2, 65, 1000, 20_000):
        true = rng.normal(size=(n, 5)) + 100
        pred = true + rng.normal(size=(n, 5))
        true[:: max(1, n // 64), 0] -= 500
        pred[:: max(1, n // 64), 1] -= 500
        true[0, 2] -= 1e5
        wanted = [np.corrcoef(true[:, g], pred[:, g])[0, 1] for g in range(5)]
        np.testing.assert_allclose(correlation.pearson(true, pred), wanted, atol=2e-6)


def test_the_tables_are_those_of_the_committed_results():
    text = table.README.read_text()
    assert table.page(text) == text
    for path in (*table.RESULTS.glob("*.json"), table.ENCODER):
        record = json.loads(path.read_text())
        assert re.fullmatch("[0-9a-f]{12}", record["revision"]), path.name


def test_what_the_guide_says_of_large_slides_is_what_was_measured():
    told = json.loads((table.RESULTS / "large.json").read_text())
    text = " ".join((ROOT / "docs" / "howto" / "large.md").read_text().split())
    of = {row["stage"]: row for row in told["comparisons"]}
    seconds = {stage: f"{row['seconds']:.0f} s" for stage, row in of.items()}
    peak = {stage: f"{row['peak_mib'] / 1024:.1f} GiB" for stage, row in of.items()}
    assert (
        f"{of['labels']['nuclei']:,} nuclei, grown by 3 um, in {seconds['labels']} with a peak of {peak['labels']}"
        in text
    )
    assert f"features of {of['patches']['spots']:,} spots: {seconds['patches']}, {peak['patches']}" in text
    assert f"{of['inference']['nuclei']:,} found in {seconds['inference']}, {peak['inference']}" in text
    ratio = told["ratio"]
    assert f"took {ratio['two_s']:.0f} s, on one {ratio['one_s']:.0f} s: {ratio['ratio']:.2f} times as fast" in text
    same = told["equal"]
    assert f"{same['side_px']:,} x {same['side_px']:,} pixels, {same['transcripts']:,} transcripts" in text


def test_the_gpu_script_measures_what_it_can_and_records_what_fails(tmp_path, monkeypatch, capsys):
    stage_files.write_all(tmp_path)
    with h5py.File(tmp_path / "broken.h5", "w") as file:
        file.attrs["schema"] = "stpath.spots/1"
    words = ["gpu.py", str(tmp_path), "--device", "cpu", "--steps", "2", "--out", str(tmp_path / "gpu.json")]
    monkeypatch.setattr(sys, "argv", [*words, "--revision", "0" * 12])
    gpu.main()
    record = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["file"], row["part"]): row for row in record["rows"]}
    assert "not_measured" in rows["broken.h5", "broken"]
    whole = {("nuclei.h5", "nuclei network"), ("spots.h5", "CPNN")}
    whole |= {("recognition.h5", "gene encoder"), ("recognition.h5", "patch encoder")}
    assert rows.keys() - {("broken.h5", "broken")} == whole
    for key in whole:
        row = rows[key]
        ceiling = row["encoder_per_s"] or row["network_per_s"]
        assert row["ratio"] == pytest.approx(row["per_s"] / ceiling, rel=0.02)
        assert row["met"] == (row["ratio"] >= 0.7)
        assert row["quality"]
    said = table.cards(tmp_path / "gpu.json")
    assert len([line for line in said if line.startswith("| ")]) == 1 + 5
    assert "FAILED" in capsys.readouterr().out
    assert "Not measured" in table.cards(tmp_path / "none.json")[0]


def test_frozen_encoders_are_timed_with_the_picture_before_them_or_said_to_be_not_measured(tmp_path, monkeypatch):
    out = tmp_path / "frozen.json"
    words = ["gpu_frozen.py", "--device", "cpu", "--batch", "2", "--patches", "4", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, "--revision", "0" * 12])
    gpu_frozen.main()
    (row,) = json.loads(out.read_text())["rows"]
    assert row["ratio"] == pytest.approx(row["per_s"] / row["encoder_per_s"], rel=0.02)
    assert len(table.frozen(out)) == 5
    assert "not measured" in table.frozen(tmp_path / "none.json")[0]


def test_bytes_are_normalised_where_the_network_lies():
    encode = gpu_frozen.encoder_on(torch.nn.Flatten(), torch.device("cpu"))
    grey = encode(np.full((2, 4, 4, 3), 255, np.uint8)).reshape(2, 3, 16)
    np.testing.assert_allclose(grey[:, 0], (1 - 0.485) / 0.229, rtol=1e-6)
    np.testing.assert_allclose(grey[:, 2], (1 - 0.406) / 0.225, rtol=1e-6)


def test_after_an_error_of_the_card_a_file_gets_a_process_of_its_own(tmp_path, monkeypatch):
    stage_files.write_spots(tmp_path / "spots.h5")
    words = [
        str(tmp_path),
        "--device",
        "cpu",
        "--steps",
        "1",
        "--revision",
        "0" * 12,
        "--out",
        str(tmp_path / "x.json"),
    ]
    assert [row["part"] for row in gpu.elsewhere(tmp_path / "spots.h5", words)] == ["CPNN"]
    monkeypatch.setattr(gpu.sys, "executable", "false")
    assert "ended with 1" in gpu.elsewhere(tmp_path / "spots.h5", words)[0]["not_measured"]
    monkeypatch.undo()
    monkeypatch.setattr(gpu, "LONGEST", 0.1)
    assert "not done after" in gpu.elsewhere(tmp_path / "spots.h5", words)[0]["not_measured"]


def test_the_clock_counts_steps_after_the_first_ones(monkeypatch):
    now = iter([0.0, 5.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(now))
    clock = gpu.Clock()
    assert list(clock.of("steps")(range(4))) == [0, 1, 2, 3]
    assert clock.rate("steps", 1) == 1.0
