"""Damaged and hostile files: the process lives, nothing is executed or written, every failure is one clear error.

`make test` reads 1,000 of them, `make test-deep` 10,000. An input is decided by its number alone: what fails is
repeated by `python tests/fuzz_parent.py SOUND NUMBER 1`, where SOUND is a folder that `fuzz_corpus.make_all` filled.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import fuzz_corpus
import fuzz_parent
from conftest import ROOT, VERSIONS
from stpath_core import io, lock, manifest, parameters
from stpath_core.errors import InputError
from stpath_core.io import guard

# Damage that ends in an endless loop inside libhdf5, which nothing in this process can end.
KNOWN = {4450: "libhdf5 walks a broken heap of strings", 8538: "libhdf5 walks a broken list of attributes"}
INPUTS = int(os.environ.get("STPATH_FUZZ_INPUTS", "1000"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "sound"
    fuzz_corpus.make_all(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the writers of sound files: their tests are elsewhere
def test_damaged_files_end_in_one_clear_error_and_touch_nothing(sound):
    before = {p: p.stat().st_mtime_ns for p in sound.rglob("*") if p.is_file()}
    ended = fuzz_parent.run(sound, seed=0, first=0, last=INPUTS)
    wrong = [e for e in ended if e["wrong"] and e["input"] not in KNOWN]
    record = os.environ.get("STPATH_FUZZ_RECORD")
    if record:
        about = fuzz_parent.summary(ended) | {"known": KNOWN, "versions": manifest.versions(), **manifest.machine()}
        about |= {"kills": int(os.environ.get("STPATH_KILLS", "0"))}  # of tests/test_kill.py in the same run
        about |= {"day": time.strftime("%Y-%m-%d"), "git": manifest.git_revision(ROOT)}
        about["slowest_s"] = max(e.get("seconds", 0) for e in ended)
        manifest.write_json(Path(record), about)
    assert not wrong, "\n".join(json.dumps(e) for e in wrong[:20])
    assert len(ended) == INPUTS
    assert {e["reader"] for e in ended} == set(fuzz_corpus.READERS)
    assert sum(e["end"] == "refused" for e in ended) > 0.4 * INPUTS, "the damage does none"
    assert {p: p.stat().st_mtime_ns for p in sound.rglob("*") if p.is_file()} == before


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.skipif(VERSIONS == "minimum", reason="make test-deep replaces the record after the minimum versions")
def test_the_record_of_the_long_fuzzing_is_long_of_locked_versions_and_names_what_went_wrong():
    ended = json.loads((ROOT / "data" / "results" / "test_deep.json").read_text())
    assert ended["inputs"] >= 10_000
    assert ended["read"] + ended["refused"] + ended["wrong"] == ended["inputs"]
    assert {int(n) for n in ended["known"]} == set(KNOWN)
    assert ended["wrong"] <= len(KNOWN), "what else went wrong is not named"
    assert ended["kills"] >= 100
    pinned = {name: next(iter(one.specifier)).version for name, one in lock.read_lock(ROOT / lock.LOCKED).items()}
    packages = {name: version for name, version in ended["versions"].items() if name in pinned}
    assert len(packages) > 10
    assert packages == {name: pinned[name] for name in packages}, "make test-deep"
    assert ended["git"]["changed"] is False, "a record is of a revision: commit first"


def test_a_zarr_store_cannot_bring_a_pickle(tmp_path):
    store = tmp_path / "a.zarr"
    zarr.open_group(store, mode="w", zarr_format=2)
    (store / "x").mkdir()
    about = {"chunks": [1], "compressor": None, "dtype": "|O", "fill_value": None, "filters": [{"id": "pickle"}],
             "order": "C", "shape": [1], "zarr_format": 2}  # fmt: skip
    (store / "x" / ".zarray").write_text(json.dumps(about))
    (store / "x" / "0").write_bytes(pickle.dumps(Evil(tmp_path / "HACKED")))
    for reader in (io.open_spatialdata, io.spatialdata_table):
        with pytest.raises(InputError, match="codec pickle"):
            reader(store)
    assert not (tmp_path / "HACKED").exists()


def test_declared_sizes_are_refused_before_memory_is_asked_for(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", (10**6, 10**6), "f4", chunks=(1000, 1000))
        file["coords"] = np.zeros((3, 2), int)
    with pytest.raises(InputError, match="a trap"):
        io.read_features(tmp_path / "a.h5")
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema({"x": pa.null()})) as writer:
        writer.write_table(pa.table({"x": pa.nulls(200_000_000)}))
    with pytest.raises(InputError, match="a trap"):
        guard.check_parquet(tmp_path / "a.parquet")


def test_a_packed_table_is_not_unpacked_without_end(tmp_path, monkeypatch):
    import gzip

    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(bytes(5_000_000)))
    monkeypatch.setattr(guard, "FREE_BYTES", 1_000_000)
    with pytest.raises(InputError, match="a trap"):
        io.read_bulk(tmp_path / "a.csv.gz")


def test_hdf5_stays_within_its_file(tmp_path):
    (tmp_path / "secret").write_bytes(np.arange(6, dtype="f4").tobytes())
    for name in ("link", "external"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["coords"] = np.zeros((3, 2), int)
            if name == "link":
                file["features"] = h5py.ExternalLink("other.h5", "/features")
            else:
                file.create_dataset("features", (3, 2), "f4", external=[(str(tmp_path / "secret"), 0, 24)])
        with pytest.raises(InputError, match="another file"):
            io.read_features(tmp_path / f"{name}.h5")


@pytest.mark.parametrize(("slot", "value"), [("indices", 10**6), ("indices", -1), ("indptr", 10**6)])
def test_indices_outside_a_matrix_are_refused_and_do_not_end_the_process(tmp_path, slot, value):
    path = fuzz_corpus.saved(fuzz_corpus.table(cell_type=["A", "B"] * 20), tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file[f"X/{slot}"][-1] = value
    with pytest.raises(InputError, match="point outside"):
        io.open_reference(path)


def test_a_few_lines_of_yaml_cannot_stand_for_millions(tmp_path):
    levels = "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (tmp_path / "a.yaml").write_text(f"a: &a [x, x, x, x, x, x, x, x, x]\n{levels}steps: *i\n")
    with pytest.raises(InputError, match="by alias"):
        parameters.read_parameter_file(tmp_path / "a.yaml")


def test_a_message_has_one_line_and_an_end_whatever_a_file_says():
    assert guard.told(ValueError("a\n\x1b[2Jb" + "x" * 10_000)).startswith("a ?[2Jbxx")
    assert len(guard.told(ValueError("x" * 10_000))) == 300
    assert len(str(InputError("x" * 10**6))) < 2000
