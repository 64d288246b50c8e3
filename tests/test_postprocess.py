"""From maps to nuclei: planted nuclei come back, touching ones apart, empty maps empty."""

import numpy as np
import torch

from stpath_core.data import distance_targets
from stpath_core.postprocess import instances_from_maps, renumber


def planted(shape=(200, 240), mpp=0.5):
    """Ellipses, some touching, some small, as ids."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    ids = np.zeros(shape, np.int32)
    plan = [(40, 40, 12, 9), (40, 63, 12, 9), (100, 60, 6, 20), (150, 150, 10, 10), (150, 171, 11, 11), (60, 180, 5, 5)]
    for k, (cy, cx, ry, rx) in enumerate(plan, 1):
        ids[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = k
    return ids


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_perfect_maps_give_back_every_planted_nucleus():
    ids = planted()
    maps = distance_targets(torch.from_numpy(ids.astype(np.int64))[None])[0, 2].numpy()
    found = instances_from_maps((ids > 0).astype(np.float32), maps, mpp=0.5)
    assert found.max() == ids.max()
    for k in range(1, ids.max() + 1):
        best = np.bincount(found[ids == k]).argmax()
        assert best > 0
        assert iou(ids == k, found == best) > 0.85


def test_noise_on_the_maps_does_not_shatter_nuclei():
    rng = np.random.default_rng(0)
    ids = planted()
    maps = distance_targets(torch.from_numpy(ids.astype(np.int64))[None])[0, 2].numpy()
    noisy = maps + rng.normal(0, 0.15, maps.shape)
    assert instances_from_maps((ids > 0) * 0.9, noisy, mpp=0.5).max() == ids.max()


def test_an_empty_map_gives_no_nuclei_and_a_faint_blob_still_gives_one():
    zeros = np.zeros((64, 64), np.float32)
    assert instances_from_maps(zeros, np.zeros((64, 64)), mpp=0.5).max() == 0
    blob = zeros.copy()
    blob[20:32, 20:32] = 0.8
    flat = np.full((64, 64), 0.1)  # below any peak's threshold
    assert instances_from_maps(blob, flat, mpp=0.5).max() == 1


def test_renumbering_drops_the_small_and_closes_the_gaps():
    ids = np.array([[0, 2, 2, 2], [5, 0, 9, 9]])
    np.testing.assert_array_equal(renumber(ids, min_pixels=2), [[0, 1, 1, 1], [0, 0, 2, 2]])
