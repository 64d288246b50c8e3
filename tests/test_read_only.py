"""Data is read where it lies: no run writes there, and data that cannot be written to is enough."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stpath_core import io, labels, large, run
from stpath_core.errors import InputError
from virtual_bundle import bundle_copy, opened


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of every file and folder, those hidden too."""
    return {p: ((s := p.lstat()).st_size, s.st_mtime_ns) for p in [folder, *folder.rglob("*")]}


def test_a_run_reads_data_that_is_read_only_and_leaves_nothing_there(tmp_path, monkeypatch, no_network):
    del no_network
    monkeypatch.delenv("STPATH_HOME", raising=False)
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    bundle_copy(data)
    everything = [data, *data.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state(data)
    texts = {"profile": "smoke", "dataset": "xenium", "data_dir": str(data), "out": str(tmp_path / "runs")}
    (outcome,) = run.run_planned(run.plan(["10"], texts), quiet_cells=True)
    after = state(data)
    for path in everything:
        path.chmod(0o755)
    assert outcome.status == "ok", outcome.message
    assert after == before


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_refusing: list[Path] = []


def _refuse(event: str, args: tuple) -> None:
    writes = event in ("os.mkdir", "os.remove", "os.rename") or (event == "open" and (args[2] or 0) & WRITING)
    if _refusing and writes and not isinstance(args[0], int):
        path = Path(os.fsdecode(args[0])).absolute()
        if any(path.is_relative_to(folder) for folder in _refusing):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """A block in which Python refuses to write in folders, as the system does for whoever is not root."""
    if not hasattr(_refuse, "heard"):
        sys.addaudithook(_refuse)  # there is no way to remove one
        _refuse.heard = True
    _refusing.extend(folders)
    try:
        yield
    finally:
        _refusing.clear()


@pytest.mark.parametrize("grow_um", [None, 0])
def test_a_large_section_is_counted_where_its_folder_is_read_only(tmp_path, monkeypatch, grow_um):
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path / "cache"))
    folder = bundle_copy(tmp_path)
    before = state(folder)
    with read_only(folder):
        counted = large.count_transcripts(io.open_large_xenium(folder), grow_um=grow_um)
    assert state(folder) == before
    assert (counted.X != labels.count_transcripts(opened(), grow_um=grow_um).X).nnz == 0
    assert not list(tmp_path.glob("cache/*/*"))


def test_a_cache_that_cannot_be_written_to_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path / "cache"))
    section = io.open_large_xenium(bundle_copy(tmp_path))
    with (
        read_only(tmp_path / "cache"),
        pytest.raises(InputError, match=r"cache/counting cannot be written to \(.*Permission denied.*scratch="),
    ):
        large.count_transcripts(section, grow_um=0)
    large.count_transcripts(section, grow_um=0, scratch=tmp_path / "aside")
