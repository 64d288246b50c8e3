"""The registry of public data sets, and `stpath data` on a publisher that runs on this machine."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import signal
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from conftest import ROOT
from stpath_core import cli, datasets
from stpath_core.errors import InputError
from stpath_core.io import download, open_mask_folder
from stpath_core.io import registry as load
from stpath_core.io.registry import ACCESS, RemoteFile
from test_download import BODY, SHA, server, zipped  # noqa: F401

WANTED = {
    "hest1k", "xenium_breast", "xenium_lung", "her2st", "monuseg", "pannuke", "nucls", "sthelar", "wu2021",
}  # fmt: skip
ROOM = importlib.import_module("stpath_core.io.registry")  # the package names the function alike
ENTRIES = load()
PUBLIC = [e for e in ENTRIES.values() if e.access not in ("generated", "yours")]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty folder for data sets, found through STPATH_DATA."""
    monkeypatch.setenv("STPATH_DATA", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def small(server, tmp_path, monkeypatch):  # noqa: F811
    """`pannuke` as two files on this machine: a zip to unpack and a plain file. Returns the server."""
    server.body = zipped(tmp_path / "f.zip", {"Fold 1/images.npy": BODY, "Fold 1/types.npy": b"types"}).read_bytes()
    files = (RemoteFile(url=f"{server.url}/fold_1.zip?download=1", unpack="fold_1"), RemoteFile(url=f"{server.url}/b"))
    entries = ENTRIES | {"pannuke": replace(ENTRIES["pannuke"], files=files)}
    monkeypatch.setattr(ROOM, "registry", lambda: entries)
    return server


def stpath(*words):
    return cli.main(["data", *map(str, words)])


def record(store):
    return json.loads((store / "pannuke" / datasets.RECORD).read_text())


def test_every_public_data_set_states_its_terms_patients_and_way():
    assert set(ENTRIES) >= WANTED
    for e in PUBLIC:
        assert e.licence and e.citation and e.patients, e.name  # noqa: PT018
        assert e.source.startswith("https://"), e.name
        assert e.access in ACCESS
        assert bool(e.files) == (e.access == "open"), e.name
        assert bool(e.how) == (e.access in ("gated", "by hand")), e.name
        assert e.non_commercial == ("non-commercial" in e.licence), e.name
    assert ENTRIES["hest1k"].access == "gated"


def test_addresses_are_allowed_and_hashes_are_hashes_or_unknown():
    for e in PUBLIC:
        assert len({file.path for file in e.files}) == len(e.files)
        for file in e.files:
            assert file.url.startswith("https://")
            download.refuse_address(file.url)
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.verified <= (file.sha256 is not None), "what was fetched was hashed"


def test_names_that_notebooks_use_lie_as_before():
    assert {e.name for e in ENTRIES.values() if e.layout == "masks"} == {"masks", "monuseg", "nucls", "dsb2018"}
    assert (ENTRIES["monuseg"].mpp, len(ENTRIES["monuseg"].holdout)) == (0.25, 4)
    for e in ENTRIES.values():
        if e.layout != "masks":
            with pytest.raises(InputError, match="open_mask_folder reads folders of images and masks"):
                open_mask_folder("anywhere", entry=e)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: {title: X, layout: heap, licence: L, source: S}", "layout not one of"),
        ("x: {title: X, layout: other, licence: L, source: S, access: free}", "access not one of"),
        ("x: {title: X, layout: other, licence: L, source: S, colour: 1}", r"unknown fields \['colour'\]"),
        ("x: {title: X, layout: other, licence: L, source: S, files: [{to: a}]}", "or no url"),
        (
            "x: {title: X, layout: other, licence: L, source: S, files: [{url: 'https://h/a', to: ../a}]}",
            "lies outside",
        ),
    ],
)
def test_a_wrong_registry_is_told(tmp_path, monkeypatch, text, said):
    (tmp_path / "registry.yaml").write_text(text)
    monkeypatch.setattr(ROOM, "DATA_FOLDER", tmp_path)
    with pytest.raises(InputError, match=said):
        load.__wrapped__()


def test_list_is_a_table_with_states(store, capsys):
    (store / "monuseg" / "images").mkdir(parents=True)
    assert stpath("list") == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "what", "licence", "size", "state"]
    assert max(map(len, lines)) <= 120
    states = {
        line.split()[0]: re.split(r"  +", line)[-1] for line in lines[1:] if line.split()[:1] != ["stpath"] and line
    }
    assert states == {
        "virtual": "generated", "xenium": "yours", "masks": "yours", "slides": "yours", "monuseg": "here",
        "nucls": "by hand", "dsb2018": "not here", "pannuke": "not here", "her2st": "not here", "hest1k": "gated",
        "xenium_breast": "not here", "merfish": "by hand", "xenium_lung": "not here",
            "sthelar": "by hand", "wu2021": "not here",
    }  # fmt: skip


def test_list_of_one_marks_unverified_addresses_and_unknown_hashes(store, capsys):
    assert stpath("list", "pannuke") == cli.OK
    said = capsys.readouterr().out
    assert said.count("unverified address; sha256 not known, recorded at first download") == 3
    assert "NOT FOR COMMERCIAL USE" in said
    assert "Gamper et al. 2019" in said
    assert f"not here, in {store / 'pannuke'}" in said


def test_get_shows_terms_downloads_unpacks_and_records(small, store, capsys):
    assert stpath("get", "pannuke") == cli.OK
    said = capsys.readouterr().out
    assert said.index("NOT FOR COMMERCIAL USE") < said.index("unverified address")
    assert "no sha256 was known before; recorded now in downloaded.json" in said
    folder = store / "pannuke"
    assert sorted(p.name for p in folder.iterdir()) == ["b", "downloaded.json", "fold_1", "fold_1.zip"]
    assert (folder / "fold_1" / "images.npy").read_bytes() == BODY
    told = record(store)
    assert told["files"]["fold_1.zip"]["sha256"] == download.sha256_of(folder / "fold_1.zip")
    assert told["files"]["fold_1.zip"]["checked"] is False
    assert told["unpacked"]["fold_1"]["files"]["images.npy"] == {"bytes": len(BODY), "sha256": SHA}
    asked = len(small.asked)
    assert stpath("get", "pannuke") == cli.OK
    assert len(small.asked) == asked, "what is here is not fetched again"
    assert "fold_1.zip: here, unchanged" in capsys.readouterr().out
    assert stpath("path", "pannuke") == cli.OK
    assert capsys.readouterr().out == f"{folder}\n"


def test_a_publisher_that_cannot_be_reached_leaves_nothing(small, store, capsys):
    small.http.shutdown()
    small.http.server_close()
    assert stpath("get", "pannuke") == cli.FAILED
    assert "refused): nothing came" in capsys.readouterr().err
    assert not (store / "pannuke").exists()


def test_verify_finds_what_changed_or_went(small, store, capsys):
    assert stpath("verify") == cli.FAILED
    assert "nothing that stpath downloaded" in capsys.readouterr().err
    stpath("get", "pannuke")
    assert stpath("verify", "pannuke") == cli.OK
    assert stpath("verify") == cli.OK
    assert "pannuke: 4 of 4 files as recorded" in capsys.readouterr().out
    (store / "pannuke" / "fold_1" / "types.npy").write_bytes(b"typos")
    (store / "pannuke" / "b").unlink()
    assert stpath("verify", "pannuke") == cli.FAILED
    said = capsys.readouterr().out
    assert "pannuke/fold_1/types.npy: changed" in said
    assert "pannuke/b: missing" in said
    assert "2 of 4 files as recorded" in said


def test_a_file_damaged_on_disk_is_not_taken_for_the_data(small, store, capsys):
    stpath("get", "pannuke")
    with (store / "pannuke" / "b").open("r+b") as handle:
        handle.write(b"x")
    assert stpath("get", "pannuke") == cli.FAILED
    assert "sha256 differs" in capsys.readouterr().err


def test_unpacked_data_damaged_on_disk_come_out_of_their_archive_again(small, store, capsys):
    stpath("get", "pannuke")
    path = store / "pannuke" / "fold_1" / "types.npy"
    sound = path.read_bytes()
    assert stpath("get", "pannuke") == cli.OK
    assert capsys.readouterr().out.count("unpacking") == 1
    path.write_bytes(sound[:-1] + b"~")  # of the same size
    assert stpath("get", "pannuke") == cli.OK
    assert "unpacking" in capsys.readouterr().out
    assert path.read_bytes() == sound


def test_what_was_recorded_once_has_to_come_again(small, store, capsys):
    stpath("get", "pannuke")
    (store / "pannuke" / "b").unlink()
    assert stpath("path", "pannuke") == cli.FAILED
    assert "pannuke is partly here" in capsys.readouterr().err
    small.body = BODY
    assert stpath("get", "pannuke") == cli.FAILED
    assert "was it changed?" in capsys.readouterr().err
    assert not (store / "pannuke" / "b").exists()


def test_a_hostile_archive_leaves_no_folder_and_is_not_here(small, store, tmp_path, capsys):
    small.body = zipped(tmp_path / "evil.zip", {"../../evil": b"1"}).read_bytes()
    assert stpath("get", "pannuke") == cli.FAILED
    assert "points out of the folder" in capsys.readouterr().err
    assert not (store / "pannuke" / "fold_1").exists()
    assert stpath("path", "pannuke") == cli.FAILED


def test_an_interrupted_get_exits_130_and_goes_on(small, store, monkeypatch, capsys):
    small.slow_s = 0.01
    real = download._copy

    def interrupted(*words):
        for megabyte in real(*words):
            yield megabyte
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(download, "MB", 50_000)
    monkeypatch.setattr(download, "_copy", interrupted)
    assert stpath("get", "pannuke") == cli.INTERRUPTED
    assert sorted(p.name for p in (store / "pannuke").iterdir()) == ["fold_1.zip.part", "fold_1.zip.part.json"]
    monkeypatch.setattr(download, "_copy", real)
    assert stpath("get", "pannuke") == cli.OK
    assert "fold_1.zip: went on from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get", "hest1k"], "hest1k is gated: log in at https://huggingface.co/datasets/MahmoodLab/hest"),
        (["get", "monuseg"], "monuseg is by hand: the files are linked on"),
        (["get", "virtual"], "there is nothing to get"),
        (["get", "masks"], "folder of your own"),
        (["get", "panuke"], "expected one of virtual"),
        (["get"], "needs the NAME"),
        (["path"], "needs the NAME"),
    ],
)
def test_what_cannot_be_fetched_ends_with_one_message_and_code_2(store, capsys, words, said):
    assert stpath(*words) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stpath: ")
    assert said in err
    assert err.count("\n") == 1
    assert not store.exists()


def test_path_says_what_is_missing_and_exits_1(store, capsys):
    for name, said in {"pannuke": "not here", "hest1k": "gated", "virtual": "generated", "xenium": "yours"}.items():
        assert stpath("path", name) == cli.FAILED
        out, err = capsys.readouterr()
        assert (out, f"{name} is {said}" in err) == ("", True)


def test_folders_are_to_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("STPATH_DATA", raising=False)
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path / "cache"))
    entry = ENTRIES["pannuke"]
    assert datasets.folder_of(entry) == tmp_path / "cache" / "datasets" / "pannuke"
    monkeypatch.setenv("STPATH_DATA", str(tmp_path / "data"))
    assert datasets.folder_of(entry) == tmp_path / "data" / "pannuke"
    assert datasets.folder_of(entry, tmp_path / "to") == tmp_path / "to" / "pannuke"


def test_make_clean_keeps_downloads(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("data/cache/stages/x", "data/cache/datasets/pannuke"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [p.name for p in (tmp_path / "data" / "cache").iterdir()] == ["datasets"]


def test_a_data_set_that_no_notebook_serves_says_what_to_do_instead(toys, capsys):
    toys.add("10_one", "", header="# datasets: [virtual]\n")
    assert cli.main(["run", "10", "-p", "dataset=dsb2018"]) == cli.USAGE
    said = capsys.readouterr().err
    assert "for dsb2018 run none: no notebook runs on it, because its images are of mixed" in said
    assert "-p dataset=masks" in said


@pytest.mark.real
def test_lymphocytes_of_the_real_nucls_tiles_have_a_plausible_size(real_data):
    nuclei = pd.concat(t.nuclei for t in open_mask_folder(real_data / "nucls", entry="nucls"))
    median = nuclei.area_um2[nuclei["type"] == "inflammatory"].median()
    assert 18 < median < 40  # 13.6 at the 0.2 um/px of the published tiles, which these are not


def test_nothing_else_in_the_library_downloads_or_unpacks():
    names = ("urllib.request", "urlopen", "urlretrieve", "requests.", "http.client", "hf_hub", "snapshot_download",
             "torch.hub", "pooch", "extractall", "unpack_archive", "tarfile.open", "ZipFile(")  # fmt: skip
    ways = {ROOT / "stpath_core" / "io" / name for name in ("download.py", "unpack.py")}
    for folder in ("stpath_core", "notebooks"):
        for path in set((ROOT / folder).rglob("*.py")) - ways:
            text = path.read_text()
            assert not [name for name in names if name in text], path
