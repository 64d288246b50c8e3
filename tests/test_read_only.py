"""Data is read where it lies: no run writes there, and data that cannot be written to is enough."""

from __future__ import annotations

from pathlib import Path

from stpath_core import run
from virtual_bundle import bundle_copy


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
