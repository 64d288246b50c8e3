"""What the work larger than memory refuses, and what it leaves behind when it cannot go on."""

from __future__ import annotations

import errno

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
