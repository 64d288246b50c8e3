"""Damaged and hostile files: the process lives, nothing is executed or written, every failure is one clear error.

`make test` reads 1,000 of them, `make test-deep` 10,000. An input is decided by its number alone: what fails is
repeated by `python tests/fuzz_parent.py SOUND NUMBER 1`, where SOUND is a folder that `fuzz_corpus.make_all` filled.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
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

KNOWN: dict[int, str] = {}  # inputs that go wrong, each with the reason why nothing can be done
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


def strings(path, *, wide=8, libver="earliest", userblock_size=0):
    """A file of many words: short and empty ones and a long one, some of them attributes."""
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    properties.set_sizes(8, wide)
    properties.set_userblock(userblock_size)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(*((h5py.h5f.LIBVER_EARLIEST,) if libver == "earliest" else (h5py.h5f.LIBVER_LATEST,)),
                             h5py.h5f.LIBVER_LATEST)  # fmt: skip
    with h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, properties, access)) as file:
        words = [f"cell {k}" * (k % 5) for k in range(2000)]
        file.create_dataset("words", data=[*words, "x" * 30_000], dtype=h5py.string_dtype())
        file.attrs.create("names", ["", "a", "b" * 70], dtype=h5py.string_dtype())
    return path


@pytest.mark.parametrize("wide", [2, 4, 8])
@pytest.mark.parametrize(("libver", "userblock_size"), [("earliest", 0), ("latest", 0), ("earliest", 1024)])
def test_sound_heaps_of_strings_pass_wherever_they_lie(tmp_path, monkeypatch, wide, libver, userblock_size):
    path = strings(tmp_path / "a.h5", wide=wide, libver=libver, userblock_size=userblock_size)
    content, found = path.read_bytes(), []
    for block in (5, 4_000_000):
        monkeypatch.setattr(guard, "BLOCK", block)
        guard.check_hdf5(path)
        with path.open("rb") as file:
            assert guard._size_of_lengths(file, len(content)) == wide
            found.append(list(guard._heaps(file)))
    assert found[0] == found[1] == [k for k in range(len(content)) if content.startswith(b"GCOL", k)]
    assert len(found[0]) >= 2


CHECKS = """
import sys
from pathlib import Path
from stpath_core import data, parts
from stpath_core.io import guard
path = Path(sys.argv[1])
parts._xenium_files(path.parent, parts.Parts()) if len(sys.argv) > 2 else None
for reader in (guard.check_hdf5, data.read_nuclei_plan):
    try:
        reader(path)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("wide", [4, 8])
@pytest.mark.parametrize("damage", ["nothing", "wraps", "many", "empty"])
def test_a_heap_of_strings_without_an_end_is_refused_at_once(tmp_path, wide, damage):
    """libhdf5 walks the first for ever; of the last each heap holds all that follow."""
    path = strings(tmp_path / "a.h5", wide=wide)
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL")
    length = int.from_bytes(content[heap + 8 : heap + 8 + wide], "little")
    if damage == "nothing":
        content[heap + length // 2 : heap + length] = bytes(length - length // 2)
    elif damage == "wraps":
        content[heap + 24 : heap + 24 + wide] = (256**wide - 16).to_bytes(wide, "little")
    else:
        each = 10_000_000 if damage == "many" else 0
        content += b"".join(b"GCOL\x01\0\0\0" + max(each - 16 * k, 0).to_bytes(8, "little") for k in range(625_000))
    path.write_bytes(content)
    child = subprocess.run([sys.executable, "-c", CHECKS, path], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert child.stdout.count("InputError") == child.stdout.count("does not come to an end") == 2, child.stderr


def test_a_folder_is_looked_at_without_walking_a_heap_that_has_no_end(tmp_path):
    path = tmp_path / "cell_feature_matrix.h5"
    with h5py.File(path, "w") as file:
        for name in ("feature_type", "name"):
            file.create_dataset(f"matrix/features/{name}", data=["a", "b"] * 300, dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    child = subprocess.run(
        [sys.executable, "-c", CHECKS, path, "folder"], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    assert "FileNotFoundError" in child.stderr, "the folder has nothing else that could be read"


def test_what_a_sparse_file_does_not_hold_is_not_searched(tmp_path):
    path = strings(tmp_path / "a.h5")
    with path.open("r+b") as file:
        file.truncate(2**40)
        found = guard._heaps(file)
        assert len(list(found)) >= 2  # in a moment, not in an hour
    guard.check_hdf5(path)


def test_a_heap_too_long_to_be_read_is_said_to_be_that(tmp_path, monkeypatch):
    path = strings(tmp_path / "a.h5")
    monkeypatch.setattr(guard, "FREE_BYTES", 20_000)
    with pytest.raises(InputError, match="more than 20,000 are not read"):
        guard.check_hdf5(path)


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
