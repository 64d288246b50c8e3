"""What cannot work is refused before a kernel starts: values, parameter files, names of other notebooks."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from PIL import Image

from stpath_core import cli
from stpath_core.errors import InputError
from stpath_core.fit import pick_device
from stpath_core.parameters import read_parameter_file

ENCODER = """\
encoder: str | None = None  # of timm
encoder_args: str | None = None  # JSON
folds: int = 0  # crossed"""
RESNET = 'all: {encoder: resnet10t, encoder_args: \'{"out_indices": [0, 1], "channels": [8, 8, 16, 16]}\'}'


def stpath(*words):
    return cli.main([str(word) for word in words])


def masks(folder, stems):
    """Random tiles, each with one nucleus, as dataset=monuseg has them."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for stem in stems:
        pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{stem}.png")
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(folder / "labels" / f"{stem}.png")
    return folder


@pytest.fixture
def encoders(toys):
    toys.add("10_one", parameters=ENCODER)
    toys.profiles({"cpu": RESNET})
    return toys


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "device=warp"], "device 'warp' is not one torch knows"),
        (["-p", "device=meta"], "device 'meta' is not here"),
        (["-p", "device=cuda:99"], "device 'cuda:99'"),
        (["-p", "encoder=resnet1000"], "encoder='resnet1000' is no timm model"),
        (["-p", "encoder=vit_tiny_patch16_224"], "these encoder_args are the profile's"),
        (["-p", "encoder_args={out_indices}"], "is not JSON"),
        (["-p", "encoder_args=[1, 2]"], "is a list"),
        (["-p", 'encoder_args={"out_indices": [0, 17]}'], "cannot be built"),
        (["-p", 'encoder_args={"pretrained": true, "wings": 2}'], "cannot be built"),
        (["-p", "folds=-2"], "give 0 for none, or 2 and more"),
        (["-p", "folds=1"], "give 0 for none, or 2 and more"),
    ],
)
def test_values_that_cannot_work_start_nothing(encoders, capsys, words, said):
    assert stpath("run", "10", *words) == cli.USAGE
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (encoders.folder / "runs").exists()


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"encoder": "vit_tiny_patch16_224", "encoder_args": '{"dynamic_img_size": true}'},
        {"encoder": "resnet18", "encoder_args": "{}"},
        {"encoder_args": '{"out_indices": [0, 1, 2]}'},
        {"device": "cpu", "folds": "3"},
    ],
)
def test_values_that_work_are_let_through(encoders, texts):
    from stpath_core import run

    assert len(run.plan(["10"], texts)) == 1


def test_folds_and_masks_are_counted_before_a_run(encoders, tmp_path, capsys):
    encoders.add("10_one", parameters=ENCODER, header="# datasets: [virtual, monuseg]\n")
    folder = masks(tmp_path / "tiles", [f"TCGA-18-000{k}-01" for k in range(3)])
    words = ["run", "10", "-p", "dataset=monuseg", "-p", f"data_dir={folder}"]
    assert stpath(*words, "-p", "folds=4") == cli.USAGE
    assert "folds=4 of 3 patients" in capsys.readouterr().err
    (folder / "labels" / "TCGA-18-0001-01.png").unlink()
    assert stpath(*words) == cli.USAGE
    assert "1 images without a mask" in capsys.readouterr().err
    assert not (encoders.folder / "runs").exists()


def test_the_session_is_told_as_early_as_the_runner(encoders, monkeypatch):
    """Who runs the cells by hand learns it from `begin`, the second cell."""
    from stpath_core import record

    values = {"device": "cpu", "seed": 0, "dataset": "virtual", "data_dir": "", "profile": "cpu", "out": "", "folds": 1}
    with pytest.raises(InputError, match="folds=1"):
        record.begin("10_one", values)
    assert not (encoders.folder / "runs").exists()


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "cuda:99", "cpu:x", "hpu", "privateuseone"])
def test_a_device_that_is_not_here_is_one_clear_error(name):
    import torch

    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("here it is")
    with pytest.raises(InputError, match=f"device '{name}'") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1: 2\n", "has the name 1; names are text"),
        (b"10_one: {3: 4}\n", "has the name 3; names are text"),
        (b"null: 2\n", "has the name None"),
        (b"size: \xff\xfe\n", "must be YAML in UTF-8"),
        (b"size: [1\n", "must be YAML in UTF-8"),
        (b"size: 2021-13-45\n", "must be YAML in UTF-8"),
        (b"[1, 2]: 3\n", "must be YAML in UTF-8"),
        (b"- a\n- b\n", "holds a list; it must hold"),
        (b"just words\n", "holds a str; it must hold"),
        (b"", "holds nothing; it must hold"),
    ],
)
def test_a_parameter_file_that_is_none_is_one_clear_error(tmp_path, content, said):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.yaml") as caught:
        read_parameter_file(tmp_path / "a.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_and_lists_that_cannot_be_read_are_usage_errors(toys, capsys):
    toys.add("10_one", parameters="size: int = 3\nsizes: list[int] = [1]")
    (toys.folder / "a.yaml").write_text("10_one: {sise: 6}\n")
    assert stpath("run", "10", "-f", toys.folder / "a.yaml") == cli.USAGE
    assert "did you mean size" in capsys.readouterr().err  # a section's names, too
    assert stpath("run", "10", "-p", "sizes=[1, {") == cli.USAGE
    assert "it takes list[int]" in capsys.readouterr().err
    assert not (toys.folder / "runs").exists()


def test_a_name_that_only_a_needed_notebook_declares_says_what_to_run(toys, capsys):
    toys.add("10_one", parameters="depth: int = 3")
    toys.add("11_two", parameters="size: int = 3", needs="10_one")
    toys.add("12_three", needs="11_two")
    for name, words in (("size", "11 12"), ("depth", "10 12")):
        assert stpath("run", "12", "-p", f"{name}=5") == cli.USAGE
        assert f"`stpath run {words} -p {name}=...`" in capsys.readouterr().err
    assert stpath("run", "12", "-p", "sise=5") == cli.USAGE
    assert "unknown parameter sise" in capsys.readouterr().err
    assert not (toys.folder / "runs").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(toys, capsys, monkeypatch):
    toys.add("10_one")
    (toys.folder / "taken").write_text("x")
    assert stpath("run", "10", "--out", toys.folder / "taken" / "runs") == cli.USAGE
    assert "taken is a file" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may write anywhere
    assert stpath("run", "10", "--out", toys.folder / "locked" / "runs") == cli.USAGE
    assert "cannot be written" in capsys.readouterr().err
    assert not (toys.folder / "locked").exists()


def test_a_full_disk_is_one_line_and_the_run_says_that_it_failed(toys, capsys, monkeypatch):
    toys.add("10_one")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    assert stpath("run", "10") == cli.FAILED
    told = capsys.readouterr().err
    assert told.startswith("stpath: [Errno 28] No space left on device: 'runs/x': free some space")
    assert told.count("\n") == 1


def test_without_a_command_the_help_is_shown_and_says_where_to_begin(capsys):
    assert stpath() == cli.USAGE
    told = capsys.readouterr().err
    assert "to begin:" in told
    assert "exit codes: 0" in told


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", cli.OK),
        ("raise ValueError('x')", cli.FAILED),
        ("raise KeyboardInterrupt", cli.FAILED),  # of the cell's own; an interrupt of stpath is in test_run
        ("import os; os._exit(3)", cli.FAILED),
    ],
)
def test_scripts_can_trust_the_exit_code_of_a_run(toys, capsys, body, code):
    toys.add("10_one", body)
    assert stpath("run", "10") == code
    assert "Traceback" not in capsys.readouterr().err
