"""What the work larger than memory refuses, and what it leaves behind when it cannot go on."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest

from stpath_core import io, large, predict
from stpath_core.errors import InputError
from test_large import TILES, assert_same_nuclei, contents, network, picture, rewritten  # noqa: F401
from virtual_bundle import bundle_copy

# Labels


def unassigned(table):
    return table.assign(feature_name="none of the panel")


def moved(table):
    return table.assign(x_location=table["x_location"] + 1e5)


def shrunk(table):
    return table.assign(x_location=table["x_location"] * 0.2125, y_location=table["y_location"] * 0.2125)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unassigned, "no transcript is of a gene of the panel"),
        (moved, "0% of the transcripts lie inside"),
        (shrunk, "transcripts span 0.1"),
    ],
)
@pytest.mark.parametrize("grow_um", [None, 1.0])
def test_transcripts_that_cannot_be_of_this_slide_are_refused(tmp_path, change, said, grow_um):
    section = io.open_large_xenium(rewritten(bundle_copy(tmp_path), change))
    with pytest.raises(InputError, match=said):
        large.count_transcripts(section, grow_um=grow_um, scratch=tmp_path / "aside")
    assert not list(tmp_path.glob("aside/*"))


def test_values_out_of_range_and_damaged_parts_are_one_clear_error(tmp_path):
    late = io.open_large_xenium(rewritten(bundle_copy(tmp_path)))
    for wrong, said in (
        ({"tile_px": 3}, "tile_px=3"),
        ({"grow_um": -1.0}, "grow_um=-1"),
        ({"grow_um": 1e4}, "grow_um"),
    ):
        with pytest.raises(InputError, match=said):
            large.count_transcripts(late, **{"grow_um": 0, "scratch": tmp_path} | wrong)
    content = bytearray(late.transcripts.read_bytes())
    content[2000:40000] = bytes(38000)
    late.transcripts.write_bytes(content)
    with pytest.raises(InputError, match=r"transcripts\.parquet is truncated or damaged"):
        large.count_transcripts(late, grow_um=0, scratch=tmp_path)


def gene_numbers(table):
    return table.assign(feature_name=np.arange(len(table)) % 7)


def no_gene(table):
    return table.assign(feature_name=None)


def no_cell(table):
    return table.assign(cell_id=None)


def some_without_cell(table):
    return table.assign(cell_id=table["cell_id"].where(np.arange(len(table)) % 50 > 0))


def quality_in_words(table):
    return table.assign(qv=table["qv"].astype(str))


def places_in_words(table):
    return table.assign(x_location=table["x_location"].astype(str))


@pytest.mark.parametrize(
    ("change", "grow_um", "said"),
    [
        (gene_numbers, None, "no transcript is of a gene of the panel"),
        (gene_numbers, 0, "no transcript is of a gene of the panel"),
        (no_gene, 0, "values of feature_name are missing"),
        (no_cell, None, r"3000 of 3000 values of cell_id are missing; every transcript needs one, a cell's is UNASS"),
        (some_without_cell, None, r"of 3000 values of cell_id are missing"),
        (quality_in_words, None, "qv is stored as (large_)?string; expected numbers"),
        (quality_in_words, 0, "qv is stored as (large_)?string; expected numbers"),
        (places_in_words, 0, "x_location is stored as (large_)?string; expected numbers"),
    ],
)
def test_columns_of_another_kind_are_one_clear_error(tmp_path, change, grow_um, said):
    late = io.open_large_xenium(rewritten(bundle_copy(tmp_path), change))
    with pytest.raises(InputError, match=said) as told:
        large.count_transcripts(late, grow_um=grow_um, scratch=tmp_path / "aside")
    assert "transcripts.parquet" in str(told.value)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.glob("aside/*"))


def test_cells_named_by_numbers_are_those_of_the_same_name(tmp_path):
    """Early versions of the format wrote numbers."""
    late = io.open_large_xenium(rewritten(bundle_copy(tmp_path)))
    wanted = large.count_transcripts(late)
    number = {name: k for k, name in enumerate(late.nuclei["cell_id"], start=1)}
    rewritten(
        late.transcripts.parent, lambda table: table.assign(cell_id=table["cell_id"].map(number).fillna(-1).astype(int))
    )
    got = large.count_transcripts(replace(late, nuclei=late.nuclei.assign(cell_id=list(map(str, number.values())))))
    assert got.X.sum() > 0
    assert (got.X != wanted.X).nnz == 0


@pytest.mark.parametrize("grow_um", [None, 0])
def test_a_file_that_is_cut_or_gone_after_opening_is_one_clear_error(tmp_path, grow_um):
    late = io.open_large_xenium(rewritten(bundle_copy(tmp_path)))
    late.transcripts.write_bytes(late.transcripts.read_bytes()[:-5000])
    for _ in range(2):
        with pytest.raises(InputError, match=r"transcripts\.parquet cannot be read \(.*\): is it whole"):
            large.count_transcripts(late, grow_um=grow_um, scratch=tmp_path / "aside")
        late.transcripts.unlink(missing_ok=True)


# Inference


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_half_of_a_slide_and_the_next_call_goes_on(network, picture, tmp_path, monkeypatch):  # noqa: F811
    net, checkpoint = network
    image, slide = picture
    out = tmp_path / "out"
    for broken in ("numpy.savez", "numpy.savez_compressed", "os.fsync", "zarr.Array.__setitem__",
                   "pandas.DataFrame.to_parquet"):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            with pytest.raises(OSError, match="No space left on device"):
                large.predict_slide(checkpoint, slide, out, **TILES)
        assert [p.name for p in out.iterdir()] == ["tiles"]
        assert not list(out.rglob(".writing-*"))
    found = large.predict_slide(checkpoint, slide, out, **TILES)
    assert_same_nuclei(found, predict.predict_image(net, image, slide.mpp, **TILES), slide.mpp)
    before = contents(found.labels) | contents(found.nuclei)
    monkeypatch.setattr("pandas.DataFrame.to_parquet", full)
    with pytest.raises(OSError, match="No space left on device"):
        large.predict_slide(checkpoint, slide, out, **TILES, threshold=0.6)
    assert contents(found.labels) | contents(found.nuclei) == before, "labels of one call beside the table of another"
