"""Larger than memory: partitions and tiles give what the whole gives, here and on the workers of a Dask scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
import zarr
from scipy.sparse import load_npz

from conftest import ROOT
from stpath_core import io, keys, labels, large, parallel, predict, spots, stain
from stpath_core.errors import InputError
from stpath_core.fit import one_torch_thread
from stpath_core.large import slide as slide_room
from stpath_core.models.nuclei import NucleiNet
from stpath_core.tissue.histology import instance_mask
from test_predict import CLASSES, SLIM, Darkness
from virtual_bundle import bundle_copy, opened

PART = 3000  # rows of a row group: several make a file


def rewritten(folder, change=lambda table: table, rows=PART):
    """The bundle with its transcripts in small parts, in no order of place, after `change`."""
    path = folder / "transcripts.parquet"
    table = change(pq.read_table(path).to_pandas())
    order = np.random.default_rng(0).permutation(len(table))
    table.iloc[order].to_parquet(path, row_group_size=rows, index=False)
    return folder


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    return io.open_large_xenium(rewritten(bundle_copy(tmp_path_factory.mktemp("large"))))


@pytest.fixture(scope="module")
def dask():
    """The address of a scheduler with one worker of one thread, in this process."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


# Labels


def assert_same_table(got, wanted):
    assert (got.layers[keys.COUNTS] != wanted.layers[keys.COUNTS]).nnz == 0
    assert got.X.dtype == wanted.X.dtype
    pd.testing.assert_frame_equal(got.obs, wanted.obs)
    assert list(got.var_names) == list(wanted.var_names)
    np.testing.assert_array_equal(got.obsm[keys.SPATIAL], wanted.obsm[keys.SPATIAL])


@pytest.mark.parametrize("grow_um", [None, 0, 3.0])
def test_counts_by_parts_and_tiles_are_those_in_memory(section, tmp_path, grow_um):
    got = large.count_transcripts(section, grow_um=grow_um, tile_px=100, scratch=tmp_path)
    assert_same_table(got, labels.count_transcripts(opened(), grow_um=grow_um))
    assert not list(tmp_path.iterdir())


def test_a_window_of_the_mask_is_the_mask_of_the_window():
    got = opened()
    outlines = np.asarray(got.nuclei_px, np.float64) * got.mpp
    part = instance_mask(outlines, mpp=got.mpp, shape=(130, 90), corner=(77, 41))
    np.testing.assert_array_equal(part, got.instances()[77:207, 41:131])


def test_molecules_at_the_edges_of_slide_and_tiles_are_counted_once(section, tmp_path):
    """Planted at the corners of the slide and on both sides of a border, under a nucleus that covers everything."""
    height, width = section.slide.shapes[0]
    px = np.array([[0.01, 0.01], [width - 0.01, height - 0.01], [99.99, 50], [100.01, 50], [100.01, 100.01]])
    outside = [[width + 0.01, 5], [5, -0.01]]
    to_um = np.linalg.inv(section.um_to_px)
    um = np.r_[px, outside] @ to_um[:2, :2].T + to_um[:2, 2]
    gene = section.genes[0]
    planted = {"x_location": um[:, 0], "y_location": um[:, 1], "feature_name": gene, "cell_id": "UNASSIGNED", "qv": 40}
    path = tmp_path / "transcripts.parquet"
    pd.DataFrame(planted).to_parquet(path)
    over = np.array([[[-5, -5], [width + 5, -5], [width + 5, height + 5], [-5, height + 5]]], np.float32)
    one = replace(section, nuclei=section.nuclei[:1], nuclei_px=over, transcripts=path)
    got = large.count_transcripts(one, grow_um=0, tile_px=100, scratch=tmp_path)
    assert got[:, gene].X.sum() == got.X.sum() == len(px)


def test_a_scheduler_counts_the_same(section, tmp_path, dask):
    got = large.count_transcripts(section, grow_um=3.0, tile_px=150, scratch=tmp_path, scheduler=dask)
    assert_same_table(got, labels.count_transcripts(opened(), grow_um=3.0))


# Inference


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """The H&E of the bundle with bare glass to its right, as an array and as a tiled OME-TIFF."""
    got = opened()
    image = np.concatenate([got.image, np.full_like(got.image, 243)], axis=1)
    path = tmp_path_factory.mktemp("slide") / "slide.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": got.mpp, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, image, photometric="rgb", ome=True, tile=(128, 128), compression="zlib", metadata=metadata)
    return image, io.open_slide(path)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A checkpoint that stands for an oracle: dark pixels are nucleus."""
    torch.manual_seed(0)
    net = Darkness(encoder_args=SLIM, width=8, stride=1, classes=CLASSES).eval()
    path = predict.save(tmp_path / "net.safetensors", net)
    monkeypatch.setattr(predict, "load", lambda *_, **__: net)
    return net, path


def assert_same_nuclei(found, wanted, mpp):
    np.testing.assert_array_equal(zarr.open_array(found.labels, mode="r")[...], wanted.instances)
    table = pd.read_parquet(found.nuclei)
    np.testing.assert_array_equal(table["id"], np.arange(1, len(wanted.area_px) + 1))
    np.testing.assert_allclose(table[["x_um", "y_um"]], wanted.centroids_px * mpp, rtol=1e-12)
    np.testing.assert_allclose(table["area_um2"], wanted.area_px * mpp**2, rtol=1e-12)
    assert list(table["type"]) == [wanted.classes[k] for k in wanted.type_probs.argmax(1)]
    np.testing.assert_array_equal(table["confidence"], wanted.type_probs.max(1))


TILES = {"tile_px": 96, "margin_px": 24, "average_views": False}


def test_nuclei_of_a_slide_are_those_of_the_image_in_memory(network, picture, tmp_path, monkeypatch):
    net, checkpoint = network
    for room in (stain, slide_room):  # the stain of a large slide is known from every seventh pixel, say
        monkeypatch.setattr(room, "stain_step", lambda _: 7)
    image, slide = picture
    wanted = predict.predict_image(net, image, slide.mpp, **TILES)
    assert len(wanted.area_px) > 100
    found = large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES)
    assert_same_nuclei(found, wanted, slide.mpp)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["labels.zarr", "nuclei.parquet"]


def spy(function, calls, stop_after=10**9):
    def called(model, seen, tile, *args, **kwargs):
        if len(calls) >= stop_after:
            raise KeyboardInterrupt
        calls.append(repr(tile))
        return function(model, seen, tile, *args, **kwargs)

    return called


def test_glass_is_not_looked_at(network, picture, tmp_path, monkeypatch):
    net, checkpoint = network
    image, slide = picture
    looked = []
    monkeypatch.setattr(predict, "nuclei_of_tile", spy(predict.nuclei_of_tile, looked))
    large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES)
    tiles = predict.tiles_of(image.shape, net, slide.mpp, tile_px=96, margin_px=24)
    tissue = [tile for tile in tiles if tile.core[1].start < image.shape[1] / 2]
    assert len(looked) == len(tissue) < len(tiles)


def test_an_interrupted_slide_repeats_no_tile(network, picture, tmp_path, monkeypatch):
    net, checkpoint = network
    image, slide = picture
    first, second, real = [], [], predict.nuclei_of_tile
    monkeypatch.setattr(predict, "nuclei_of_tile", spy(real, first, stop_after=5))
    with pytest.raises(KeyboardInterrupt):
        large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES)
    assert not (tmp_path / "out" / "labels.zarr").exists()
    monkeypatch.setattr(predict, "nuclei_of_tile", spy(real, second))
    found = large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES)
    assert len(first) == 5
    assert not set(first) & set(second)
    monkeypatch.setattr(predict, "nuclei_of_tile", real)
    assert_same_nuclei(found, predict.predict_image(net, image, slide.mpp, **TILES), slide.mpp)


def test_other_settings_take_no_tile_of_an_earlier_call(network, picture, tmp_path, monkeypatch):
    _, checkpoint = network
    _, slide = picture
    first, second, real = [], [], predict.nuclei_of_tile
    monkeypatch.setattr(predict, "nuclei_of_tile", spy(real, first, stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES)
    monkeypatch.setattr(predict, "nuclei_of_tile", spy(real, second))
    large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES, threshold=0.6)
    assert len(first) == 2
    assert set(first) <= set(second)


HOLDER = """
import sys
from stpath_core.io.files import only_one
with only_one(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder):
    """Size and time of change of whatever lies in a folder."""
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in [folder, *folder.rglob("*")]}


def test_two_runs_into_one_slide_folder_do_not_mix_and_a_killed_one_leaves_it_free(
    network, picture, tmp_path, monkeypatch
):
    net, checkpoint = network
    image, slide = picture
    out, real, refused = tmp_path / "out", predict.nuclei_of_tile, []

    def second(*args, **kwargs):
        if not refused:
            refused.append(before := contents(out))
            with pytest.raises(InputError, match=r"another process .*works in .*out, and two would mix"):
                large.predict_slide(checkpoint, slide, out, **TILES, threshold=0.6)
            assert contents(out) == before
        return real(*args, **kwargs)

    monkeypatch.setattr(predict, "nuclei_of_tile", second)
    found = large.predict_slide(checkpoint, slide, out, **TILES)
    monkeypatch.setattr(predict, "nuclei_of_tile", real)
    assert refused
    assert_same_nuclei(found, predict.predict_image(net, image, slide.mpp, **TILES), slide.mpp)
    assert sorted(p.name for p in out.iterdir()) == ["labels.zarr", "nuclei.parquet"]

    words = [sys.executable, "-c", HOLDER, str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        before = contents(out)
        with pytest.raises(InputError, match="another process"):
            large.predict_slide(checkpoint, slide, out, **TILES)
        assert contents(out) == before
        other.kill()
    large.predict_slide(checkpoint, slide, out, **TILES, threshold=0.6)
    assert sorted(p.name for p in out.iterdir()) == ["labels.zarr", "nuclei.parquet"]


def test_a_scheduler_finds_the_same_nuclei(network, picture, tmp_path, dask):
    net, checkpoint = network
    image, slide = picture
    found = large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES, scheduler=dask)
    assert_same_nuclei(found, predict.predict_image(net, image, slide.mpp, **TILES), slide.mpp)


def test_jobs_of_a_queue_give_the_same(section, picture, tmp_path):
    """dask-jobqueue's own stand-in for a batch system: its job script runs here, as sbatch would run it there."""
    pytest.importorskip("dask_jobqueue")
    torch.manual_seed(0)
    net = NucleiNet(encoder_args=SLIM, width=8, stride=1, classes=CLASSES).eval()  # untrained: workers read the file
    checkpoint, out, corner = (
        predict.save(tmp_path / "net.safetensors", net),
        tmp_path / "out.npz",
        tmp_path / "s.ome.tif",
    )
    image, slide = picture
    metadata = {"axes": "YXS", "PhysicalSizeX": slide.mpp, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(corner, image[:160, :160], photometric="rgb", ome=True, tile=(128, 128), metadata=metadata)
    slide = io.open_slide(corner)
    words = [sys.executable, ROOT / "tests" / "queue_child.py", section.transcripts.parent, out]
    words += [checkpoint, corner, tmp_path / "found"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (load_npz(out) != labels.count_transcripts(opened(), grow_um=0).X).nnz == 0
    with one_torch_thread():
        wanted = predict.predict_image(net, image[:160, :160], slide.mpp, **TILES)
    assert len(wanted.area_px) > 0
    found = large.SlideNuclei(tmp_path / "found" / "labels.zarr", tmp_path / "found" / "nuclei.parquet")
    assert_same_nuclei(found, wanted, slide.mpp)


def test_a_slide_of_glass_has_no_nuclei(network, tmp_path):
    _, checkpoint = network
    tifffile.imwrite(tmp_path / "glass.tif", np.full((256, 260, 3), 243, np.uint8), photometric="rgb", tile=(128, 128))
    slide = io.open_slide(tmp_path / "glass.tif", mpp=0.5)
    found = large.predict_slide(checkpoint, slide, tmp_path / "out", **TILES)
    table = pd.read_parquet(found.nuclei)
    assert list(table) == ["id", "x_um", "y_um", "area_um2", "type", "confidence"]
    assert len(table) == 0
    assert not zarr.open_array(found.labels, mode="r")[...].any()


def test_a_folder_sends_large_slides_by_tiles_and_small_ones_through_memory(network, picture, tmp_path, monkeypatch):
    from stpath_core import predict_folder

    _, checkpoint = network
    image, slide = picture
    monkeypatch.setattr(predict_folder, "LARGE_PX", image[..., 0].size // 2)
    small = tmp_path / "small.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": slide.mpp, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(small, image[:200, :200], photometric="rgb", ome=True, metadata=metadata)
    out = tmp_path / "out"
    table = pd.read_csv(predict_folder.predict_folder(checkpoint, [slide.path, small], out, tell=lambda _: None))
    mask = zarr.open_array(out / "slide.ome" / "labels.zarr", mode="r")
    assert mask.shape == image.shape[:2]
    assert (table["image"] == slide.path.name).sum() == mask[...].max()
    assert (out / "labels" / "small.png").exists()
    assert not table.isna().any(axis=None)
    with pytest.raises(InputError, match="no work for a scheduler"):
        predict_folder.predict_folder(checkpoint, small, out, scheduler="tcp://127.0.0.1:1")
    (out / "slide.ome" / "nuclei.parquet").unlink()
    with pytest.raises(InputError, match=r"labels\.zarr exists and was not made by a prediction"):
        predict_folder.predict_folder(checkpoint, slide.path, out)


# Patches


def spots_on(slide, n=60):
    rng = np.random.default_rng(0)
    return np.r_[rng.random((n, 2)) * slide.size_um, [[0.0, 0.0], slide.size_um]]  # two at the corners


@pytest.mark.parametrize("on_dask", [False, True])
def test_features_of_spots_are_those_of_the_image_in_memory(picture, tmp_path, monkeypatch, dask, on_dask):
    from stpath_core.large import patches

    image, slide = picture
    xy = spots_on(slide)
    monkeypatch.setattr(patches, "WINDOW_PX", 150)  # several windows
    path = large.spot_features(slide, xy, tmp_path / "s.h5", patch_um=40, scheduler=dask if on_dask else None)
    got, wanted = io.read_features(path), spots.section_features(image, xy, mpp=slide.mpp, patch_um=40)
    np.testing.assert_array_equal(got.coords, wanted.coords)
    np.testing.assert_array_equal(got.features, wanted.features)
    assert (got.patch_px, got.mpp) == (wanted.patch_px, pytest.approx(wanted.mpp))


def test_an_encoder_of_ones_own_sees_the_same_patches(picture, tmp_path):
    image, slide = picture
    xy = spots_on(slide, n=7)
    path = large.spot_features(slide, xy, tmp_path / "s.h5", patch_um=40, encode=lambda x: x.reshape(len(x), -1))
    cut = spots.cut_patches(image, xy / slide.mpp, patch_px=round(40 / slide.mpp))
    np.testing.assert_array_equal(io.read_features(path).features, cut.reshape(len(xy), -1))


def test_spots_off_the_slide_and_empty_lists_are_refused_and_write_nothing(picture, tmp_path):
    _, slide = picture
    for xy, said in (([[1e6, 5]], "1 of 1 spots lie outside"), (np.zeros((0, 2)), "at least one spot")):
        with pytest.raises(InputError, match=said):
            large.spot_features(slide, xy, tmp_path / "s.h5", patch_um=40)
    with pytest.raises(InputError, match="at least 32"):
        large.spot_features(slide, [[5, 5]], tmp_path / "s.h5", patch_um=4)
    assert not list(tmp_path.iterdir())


# Where the work is done


def test_few_items_are_taken_ahead_of_the_work(dask):
    taken, most = 0, 0

    def items():
        nonlocal taken
        for k in range(40):
            taken += 1
            yield k

    for done, value in enumerate(parallel.on_scheduler(abs, items(), scheduler=dask)):
        assert value == done
        most = max(most, taken - done)
    assert most <= 4


def test_work_that_fails_on_a_worker_is_told_as_it_would_be_here(dask):
    def fail(_):
        message = "of the work itself"
        raise InputError(message)

    with pytest.raises(InputError, match="of the work itself"):
        list(parallel.on_scheduler(fail, range(3), scheduler=dask))
