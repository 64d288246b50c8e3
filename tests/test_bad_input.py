"""Bad input gets one clear error and leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from stpath_core import io, tissue
from stpath_core.errors import InputError, StpathError
from stpath_core.io import atomic_folder, atomic_path, open_xenium
from stpath_core.io.files import IN_USE
from stpath_core.tissue.cell_assay import CONTROLS
from virtual_bundle import bundle_copy, opened, section


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path, change) -> None:
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def _hole(path: Path, column: str, value: float = np.nan) -> None:
    def change(table):
        rows = np.arange(len(table))
        if "qv" in table:  # those that are read
            rows = np.flatnonzero((table["qv"] >= 20) & (table["cell_id"] != "UNASSIGNED"))
            rows = rows[~table["feature_name"].iloc[rows].isin(CONTROLS).to_numpy()]
        table.loc[rows[:40], column] = value
        return table

    _edit(path, change)


def _scale(
    folder: Path, factor: float, files=("nucleus_boundaries", "cell_boundaries", "transcripts", "cells")
) -> None:
    columns = ("vertex_x", "vertex_y", "x_location", "y_location", "x_centroid", "y_centroid")
    for name in files:
        _edit(folder / f"{name}.parquet", lambda t: t.assign(**{c: t[c] * factor for c in columns if c in t}))


def _counts(folder: Path, value: float) -> None:
    with h5py.File(folder / "cell_feature_matrix.h5", "r+") as file:
        data = file["matrix/data"][...].astype(np.float32)
        data[5] = value
        del file["matrix/data"]
        file["matrix/data"] = data


def _genes(folder: Path) -> None:
    with h5py.File(folder / "cell_feature_matrix.h5", "r+") as file:
        n = len(file["matrix/features/name"])
        del file["matrix/features/name"]
        file["matrix/features/name"] = np.arange(n).astype("S")


def _image(folder: Path) -> Path:
    return next(folder.glob("*he_image.ome.tif"))


def _alignment(folder: Path) -> Path:
    return next(folder.glob("*he_imagealignment.csv"))


def _rewrite_image(folder: Path, pixels=None, *, mpp: float | None = 0.5, axes="YXS", **options) -> None:
    path = _image(folder)
    pixels = tifffile.imread(path) if pixels is None else pixels
    metadata = {"axes": axes} | ({} if mpp is None else {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm"})
    tifffile.imwrite(path, pixels, photometric="rgb", ome=True, metadata=metadata, **options)


def _twice(folder: Path) -> None:
    def change(table):
        table.loc[3, "cell_id"] = table.loc[4, "cell_id"]
        return table

    _edit(folder / "cells.parquet", change)


WRONG = {
    "truncated cells": (lambda f: _truncate(f / "cells.parquet"), "cells.parquet is truncated"),
    "truncated transcripts": (lambda f: _truncate(f / "transcripts.parquet"), "transcripts.parquet is truncated"),
    "truncated matrix": (lambda f: _truncate(f / "cell_feature_matrix.h5"), "truncated or not the vendor's"),
    "truncated masks": (lambda f: _truncate(f / "cells.zarr.zip"), "cells.zarr.zip is truncated"),
    "truncated image": (lambda f: _truncate(_image(f)), "cannot be read as an image"),
    "truncated specifications": (lambda f: _truncate(f / "experiment.xenium"), "pixel_size"),
    "missing file": (lambda f: (f / "cells.zarr.zip").unlink(), "lacks cells.zarr.zip"),
    "missing column": (
        lambda f: _edit(f / "transcripts.parquet", lambda t: t.rename(columns={"feature_name": "gene"})),
        r"transcripts.parquet lacks the columns \['feature_name'\]",
    ),
    "negative counts": (lambda f: _counts(f, -3), "holds -3; raw counts"),
    "fractional counts": (lambda f: _counts(f, 1.5), r"holds 1.5; raw counts"),
    "genes are numbers": (_genes, "gene symbols are needed"),
    "duplicated ids": (_twice, "every cell needs its own id"),
    "empty slide": (lambda f: _edit(f / "cells.parquet", lambda t: t.iloc[:0]), "the slide is empty"),
    "no transcripts": (lambda f: _edit(f / "transcripts.parquet", lambda t: t.iloc[:0]), "the slide is empty"),
    "blank image": (lambda f: _rewrite_image(f, np.full((440, 520, 3), 243, np.uint8)), "with tissue on it"),
    "no image": (lambda f: _image(f).unlink(), "has 0 files"),
    "no alignment": (lambda f: _alignment(f).unlink(), "alignment.csv is missing"),
    "alignment of words": (lambda f: _alignment(f).write_text("a,b,c\n1,2,3\n4,5,6"), "not a table of numbers"),
    "alignment of another shape": (lambda f: _alignment(f).write_text("1,0\n0,1"), r"shape \(2, 2\)"),
    "alignment of another scale": (lambda f: _alignment(f).write_text("2,0,0\n0,2,0\n0,0,1"), "alignment implies"),
    "image without mpp": (lambda f: _rewrite_image(f, mpp=None), "or write it in"),
    "no transcript of quality": (
        lambda f: _edit(f / "transcripts.parquet", lambda t: t.assign(qv=np.float32(12))),
        r"transcripts.parquet: no transcript passes qv >= 20; the best of \d+ has 12",
    ),
    "transcripts of another panel": (
        lambda f: _edit(f / "transcripts.parquet", lambda t: t.assign(feature_name="OTHER")),
        r"none of \d+ transcripts is of a gene of the count matrix",
    ),
    "NaN transcripts": (
        lambda f: _hole(f / "transcripts.parquet", "y_location"),
        r"transcripts.parquet: 40 of \d+ values of y_location are NaN",
    ),
    "NaN nuclei": (
        lambda f: _hole(f / "nucleus_boundaries.parquet", "vertex_x"),
        r"nucleus_boundaries.parquet: 40 of \d+ values of vertex_x are NaN",
    ),
    "infinite cells": (
        lambda f: _hole(f / "cells.parquet", "x_centroid", np.inf),
        r"cells.parquet: 40 of \d+ values of x_centroid are NaN or infinite",
    ),
    "planar image": (
        lambda f: _rewrite_image(
            f, np.moveaxis(tifffile.imread(_image(f)), -1, 0), axes="SYX", planarconfig="separate"
        ),
        "interleaved RGB",
    ),
    "all in pixels": (lambda f: _scale(f, 1 / 0.2125), "um across"),
    "all in coarse pixels": (lambda f: _scale(f, 2.0), "lie inside the H&E"),
    "all in millimetres": (lambda f: _scale(f, 1e-3), "um across"),
    "transcripts in pixels": (lambda f: _scale(f, 2.0, ("transcripts",)), "of the transcripts lie inside"),
    "transcripts shrunk": (lambda f: _scale(f, 0.5, ("transcripts",)), "times the extent of the nuclei"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_bundle_gets_one_clear_error(tmp_path, name):
    break_it, complaint = WRONG[name]
    folder = bundle_copy(tmp_path)
    break_it(folder)
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    with pytest.raises(InputError, match=complaint) as caught:
        open_xenium(folder)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)[:100]
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before


def test_a_sound_bundle_passes_the_same_checks(tmp_path):
    specs, image = io.check_bundle(bundle_copy(tmp_path))
    assert specs["pixel_size"] == 0.5
    assert image.name.endswith("he_image.ome.tif")


def test_a_caller_may_say_what_the_image_does_not(tmp_path):
    folder = bundle_copy(tmp_path)
    _rewrite_image(folder, mpp=None)
    assert open_xenium(folder, mpp=0.5).mpp == 0.5


def test_the_image_is_mended_as_the_message_says(tmp_path):
    folder = bundle_copy(tmp_path)
    _rewrite_image(folder, mpp=None)
    with pytest.raises(InputError) as caught:
        open_xenium(folder)
    recipe = re.search(r"`(tifffile.imwrite\(.*?\))`", str(caught.value))[1]
    eval(recipe, {"tifffile": tifffile, "file": _image(folder), "MPP": 0.5})
    assert open_xenium(folder).mpp == 0.5


def test_an_error_is_an_input_error_and_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="not a folder") as caught:
        open_xenium(tmp_path / "nowhere")
    assert isinstance(caught.value, StpathError)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"organ": "liver"}, "expected one of breast"),
        ({"size_um": (30, 400)}, "at least 50 um"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_tissue_that_cannot_be_made(tmp_path, wrong, complaint):
    with pytest.raises(InputError, match=complaint):
        tissue.make_section(**({"organ": "breast", "size_um": (200, 200)} | wrong))
    with pytest.raises(InputError, match="patients=0"):
        tissue.write_cohort(tmp_path / "cohort", patients=0)
    assert not (tmp_path / "cohort").exists()


def _full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def _save(path: Path, text: str, *, fail: bool) -> None:
    with atomic_path(path) as aside:
        aside.write_text(text)
        if fail:
            _full_disk()


def _fill(path: Path, name: str, text: str, *, fail: bool) -> None:
    with atomic_folder(path) as aside:
        (aside / name).write_text(text)
        if fail:
            _full_disk()


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    _save(path, "old", fail=False)
    with pytest.raises(OSError, match="No space left"):
        _save(path, "half of the ne", fail=True)
    assert path.read_text() == "old"
    monkeypatch.setattr("os.fsync", _full_disk)  # the disk may only say so when the data is flushed
    with pytest.raises(OSError, match="No space left"):
        _save(path, "new", fail=False)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_too_full_to_begin_leaves_nothing_beside_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    begin = os.open

    def full(name, *more, **options):
        if str(name).endswith(IN_USE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return begin(name, *more, **options)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space"), atomic_path(path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_old_folder(tmp_path):
    _fill(tmp_path / "stage", "a.txt", "old", fail=False)
    with pytest.raises(OSError, match="No space left"):
        _fill(tmp_path / "stage", "a.txt", "new", fail=True)
    assert (tmp_path / "stage" / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]
    _fill(tmp_path / "stage", "b.txt", "new", fail=False)
    assert [p.name for p in (tmp_path / "stage").iterdir()] == ["b.txt"]


def test_a_bundle_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("stpath_core.tissue.xenium.tifffile.imwrite", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        tissue.write_section(tmp_path / "cohort" / "breast_p1", section())
    assert list((tmp_path / "cohort").iterdir()) == []


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    import spatialdata

    monkeypatch.setattr(spatialdata.SpatialData, "write", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        io.write_spatialdata(tmp_path / "x.zarr", opened())
    monkeypatch.setattr(json, "dumps", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        io.write_geojson(tmp_path / "x.geojson", {1: np.zeros((3, 2))})
    assert list(tmp_path.iterdir()) == []
