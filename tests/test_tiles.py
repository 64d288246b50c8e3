"""Stage files and tiles: what is written comes back, image and ids stay on each other, a batch depends on its step."""

import numpy as np
import pytest
import torch

from stpath_core.augment import _mean_of_nine, stain_augment
from stpath_core.data import (
    NucleiSection,
    NucleiTiles,
    distance_targets,
    read_nuclei_stage,
    rescale,
    write_nuclei_stage,
)
from stpath_core.errors import InputError


def disks(size=160, mpp=0.5, name="a", labels=True):
    """Dark disks on white: where an id lies the image is dark, so any shift between the two is seen."""
    y, x = np.mgrid[:size, :size]
    instances = np.zeros((size, size), np.int32)
    for k, (cy, cx) in enumerate([(30, 40), (80, 80), (120, 50), (60, 130)], 1):
        instances[(y - cy) ** 2 + (x - cx) ** 2 < 14**2] = k
    image = np.where(instances[..., None] > 0, 60, 240).astype(np.uint8).repeat(3, 2)
    types = np.array([-1, 0, 1, -1, 3], np.int8) if labels else None
    return NucleiSection(name, "breast", "0", image, mpp, instances, labels=types)


def test_a_stage_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "nuclei.h5"
    write_nuclei_stage(path, [disks(), disks(name="b", labels=False)], dataset="virtual", classes=["x"])
    first, second = read_nuclei_stage(path)
    np.testing.assert_array_equal(first.instances, disks().instances)
    np.testing.assert_array_equal(first.labels, disks().labels)
    assert second.labels is None
    assert (first.organ, first.patient, first.mpp) == ("breast", "0", 0.5)


def test_a_file_of_another_kind_or_half_a_file_is_refused(tmp_path):
    path = tmp_path / "nuclei.h5"
    write_nuclei_stage(path, [disks()], dataset="virtual", classes=["x"])
    half = tmp_path / "half.h5"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="not a readable HDF5 stage file"):
        read_nuclei_stage(half)


def test_a_mask_of_the_wrong_size_is_refused_and_nothing_is_written(tmp_path):
    good = disks()
    bad = NucleiSection("bad", "x", "0", good.image, 0.5, good.instances[:100])
    with pytest.raises(InputError, match=r"\(100, 160\)"):
        write_nuclei_stage(tmp_path / "n.h5", [bad], dataset="d", classes=[])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stride", "bend_um"), [(1, 0), (2, 0), (4, 0), (1, 2.0), (2, 2.0)])
def test_image_and_ids_of_a_tile_lie_on_each_other(stride, bend_um):
    tiles = NucleiTiles([disks()], mpp=0.5, size_px=96, stride=stride, batch_size=8, bend_um=bend_um, seed=1)
    batch = tiles(0)
    assert batch.image.shape == (8, 3, 96, 96)
    assert batch.instances.shape == (8, 96 // stride, 96 // stride)
    dark = torch.nn.functional.avg_pool2d(batch.image.float().mean(1, keepdim=True), stride)[:, 0]
    inside = batch.instances > 0
    for d, m in zip(dark, inside, strict=True):
        if m.any() and not m.all():
            middle = (d[m].mean() + d[~m].mean()) / 2
            assert ((d < middle) == m).float().mean() > 0.97


def test_a_batch_depends_on_its_step_alone():
    tiles, again = (NucleiTiles([disks()], mpp=0.5, size_px=64, batch_size=2, seed=5) for _ in range(2))
    tiles(0)
    assert torch.equal(tiles(7).image, again(7).image)
    assert not torch.equal(tiles(7).image, again(8).image)
    assert torch.equal(tiles(7).labels, again(7).labels)


def test_bending_moves_what_is_seen_by_about_what_was_asked():
    straight, bent = (NucleiTiles([disks()], mpp=0.5, size_px=96, stride=1, bend_um=b, seed=3) for b in (0.0, 1.0))
    same = [(straight(k).instances == bent(k).instances).float().mean() for k in range(3)]
    assert 0.6 < np.mean(same) < 0.98


def test_rescaling_keeps_ids_and_their_area_in_um():
    section = disks(mpp=0.25)
    coarse = rescale(section, 0.5)
    assert coarse.image.shape == (80, 80, 3)
    fine_um2 = np.bincount(section.instances.ravel())[1:] * 0.25**2
    coarse_um2 = np.bincount(coarse.instances.ravel())[1:] * 0.5**2
    np.testing.assert_allclose(coarse_um2, fine_um2, rtol=0.06)


def test_stain_augmentation_changes_colour_and_keeps_white_light():
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, 32, 32, generator=rng) * 0.5 + 0.3
    out = stain_augment(image, rng)
    assert out.shape == image.shape
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert (out.mean((2, 3)) - image.mean((2, 3))).abs().max() > 0.02
    white = stain_augment(torch.ones(4, 3, 8, 8), rng)
    assert white.mean() > 0.85


def test_the_blur_is_the_mean_of_nine():
    image = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(_mean_of_nine(image), torch.nn.functional.avg_pool2d(padded, 3, stride=1))


@pytest.mark.parametrize(("stride", "bend_um"), [(1, 0), (2, 0.5)])
def test_a_batch_cut_on_one_device_at_once_is_the_batch_cut_tile_by_tile(stride, bend_um):
    pieces, rng = [], np.random.default_rng(0)
    for name, shape in (("wide", (70, 300)), ("square", (200, 200))):  # the first is lower than a tile: mirrored
        smooth = np.repeat(np.repeat(rng.integers(0, 255, (shape[0] // 10, shape[1] // 10, 3)), 10, 0), 10, 1)
        ids = rng.integers(0, 40, shape).astype(np.int32)
        pieces.append(NucleiSection(name, "x", "0", smooth.astype(np.uint8), 0.5, ids, labels=np.zeros(40, np.int8)))
    tiles = NucleiTiles(pieces, mpp=0.5, size_px=96, stride=stride, batch_size=6, bend_um=bend_um, seed=2)
    there = tiles.on("cpu")
    for step in range(3):
        one, other = tiles(step), there(step)
        apart = (one.image.int() - other.image.int()).abs()
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 0.002
        assert (one.instances != other.instances).float().mean() < 0.002  # where a point lies half-way between pixels
        assert torch.equal(one.section, other.section)
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(other.targets, distance_targets(other.instances))
        assert one.targets is None
    assert there.n_bytes == 8 * (70 * 300 + 200 * 200)


@pytest.mark.parametrize("top", [4, 100_000])
def test_targets_are_the_same_where_the_largest_id_is_known(top):
    ids = torch.from_numpy(disks().instances.astype(np.int64))
    batch = torch.stack([ids, ids.flip(1), torch.zeros_like(ids)])
    torch.testing.assert_close(distance_targets(batch, top), distance_targets(batch))
