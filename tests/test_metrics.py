"""Scores against independent oracles written the slow way, and identities that must hold for any pair of maps."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import center_of_mass
from scipy.spatial.distance import cdist

from stpath_core import metrics
from stpath_core.errors import InputError

small_maps = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7).flatmap(
    lambda shape: st.tuples(*[arrays(np.int32, shape, elements=st.integers(0, 5))] * 2)
)
points = arrays(float, st.tuples(st.integers(0, 5), st.just(2)), elements=st.floats(0, 20, width=16))


def monuseg_aji(true, pred):
    """The challenge's MATLAB loop, one full-image mask at a time."""
    used, correct, union = set(), 0, 0
    for i in np.unique(true[true > 0]):
        gt = true == i
        candidates = np.unique(pred[gt & (pred > 0)])
        if len(candidates) == 0:
            union += gt.sum()
            continue
        jaccard = [(gt & (pred == j)).sum() / (gt | (pred == j)).sum() for j in candidates]
        best = candidates[int(np.argmax(jaccard))]
        correct += (gt & (pred == best)).sum()
        union += (gt | (pred == best)).sum()
        used.add(best)
    union += sum((pred == j).sum() for j in np.unique(pred[pred > 0]) if j not in used)
    return correct / union if union else np.nan


def kirillov_pq(true, pred):
    trues, preds = ([ids == i for i in np.unique(ids[ids > 0])] for ids in (true, pred))
    ious = [(a & b).sum() / (a | b).sum() for a in trues for b in preds]
    matched = [iou for iou in ious if iou > 0.5]
    tp, fn, fp = len(matched), len(trues) - len(matched), len(preds) - len(matched)
    return sum(matched) / (tp + fp / 2 + fn / 2) if tp + fp + fn else np.nan


@given(small_maps)
@settings(max_examples=200, deadline=None)
def test_masks_agree_with_the_slow_oracles(maps):
    true, pred = maps
    table = metrics.overlap_table(true, pred)
    foregrounds = (true > 0).sum() + (pred > 0).sum()
    overlap = 2 * ((true > 0) & (pred > 0)).sum()
    np.testing.assert_allclose(metrics.aji(table=table), monuseg_aji(true, pred), rtol=1e-12)
    np.testing.assert_allclose(metrics.pq(table=table), kirillov_pq(true, pred), rtol=1e-12)
    np.testing.assert_allclose(metrics.dice(table=table), overlap / foregrounds if foregrounds else np.nan, rtol=1e-12)


@given(small_maps, st.permutations(range(1, 6)), st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_names_of_nuclei_do_not_matter(maps, order, gap):
    true, pred = maps
    renamed = np.array([0, *order], np.int64)[pred] * gap
    table, other = metrics.overlap_table(true, pred), metrics.overlap_table(true, renamed)
    np.testing.assert_allclose(metrics.pq(table=other), metrics.pq(table=table), rtol=1e-12)
    np.testing.assert_allclose(metrics.dice(table=other), metrics.dice(table=table))
    tied = any(
        len(set(iou)) < len(iou) for iou in (list(table.iou[table.row == r]) for r in range(len(table.true_ids)))
    )
    assume(not tied)  # MoNuSeg's rule takes the lowest id in a tie, so there AJI may depend on names
    np.testing.assert_allclose(metrics.aji(table=other), metrics.aji(table=table))


@given(small_maps)
@settings(max_examples=50, deadline=None)
def test_truth_scores_one_against_itself_and_zero_against_nothing(maps):
    true, empty = maps[0], np.zeros_like(maps[0])
    expected = (1.0, 0.0) if true.any() else (np.nan, np.nan)
    for score in (metrics.pq, metrics.aji, metrics.dice):
        np.testing.assert_equal((score(true, true), score(true, empty)), expected)
        np.testing.assert_equal(score(empty, true), expected[1])


def test_huge_ids_count_as_small_ones_do(monkeypatch):
    true, pred = np.random.default_rng(0).integers(0, 40, (2, 30, 30))
    dense = metrics.overlap_table(true, pred)
    monkeypatch.setattr(metrics, "_TABLE", 0)
    for name, value in vars(metrics.overlap_table(true, pred)).items():
        np.testing.assert_array_equal(value, getattr(dense, name))
    far = metrics.overlap_table(true * 10**8, pred * 10**8)
    assert metrics.aji(table=far) == metrics.aji(table=dense)


def test_iou_of_exactly_a_half_is_no_match():
    true, pred = np.zeros((2, 1, 4), np.int32)
    true[0, :2], pred[0, :1] = 1, 1
    assert metrics.pq(true, pred) == 0
    pred[0, 1] = 1
    assert metrics.pq(true, pred) == 1


def test_one_prediction_may_serve_two_nuclei_in_aji_but_not_in_pq():
    true, pred = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])
    assert metrics.aji(true, pred) == 0.5  # (2 + 2) / (4 + 4)
    assert metrics.pq(true, pred) == 0


def test_maps_that_cannot_be_compared_are_refused():
    ids = np.ones((4, 4), np.int32)
    with pytest.raises(InputError, match=r"\(4, 4\).*\(4, 5\)"):
        metrics.overlap_table(ids, np.ones((4, 5), np.int32))
    for wrong in (ids.astype(float), -ids):
        with pytest.raises(InputError, match="instance ids"):
            metrics.overlap_table(ids, wrong)


def test_tiles_without_nuclei_are_left_out_and_scale_is_a_half_um_per_pixel():
    true = np.zeros(
        (1024, 1200), np.int32
    )  # 0.25 um/px: 512 x 600 px at 0.5, so 2 x 2 tiles and a rest under half a tile
    true[10:50, 10:50], true[600:640, 600:640], true[600:640, 1100:1180] = 1, 2, 3
    pred = np.where(true == 1, 7, 0)
    pred[10:50, 600:640] = 9  # a false alarm where nothing is: that tile is empty
    np.testing.assert_array_equal(metrics.bpq_tiles(true, pred, mpp=0.25), [1.0, 0.0])
    assert len(metrics.bpq_tiles(true * 0, pred, mpp=0.25)) == 0
    kept = metrics.bpq_tiles(true, true, mpp=0.16)  # 328 x 384 px: the right rest measures exactly half a tile
    np.testing.assert_array_equal(kept, [1.0, 1.0])


def test_centroids_are_pixel_centres_in_um():
    ids = np.zeros((6, 8), np.int32)
    ids[0, 0], ids[2:4, 4:7] = 1, 3
    np.testing.assert_allclose(metrics.centroids_um(ids, mpp=0.5), [[0.25, 0.25], [np.nan, np.nan], [2.75, 1.5]])
    assert metrics.centroids_um(ids * 0, mpp=0.5).shape == (0, 2)


def test_centroids_are_scipys_also_of_nuclei_at_both_ends_of_a_row():
    ids = np.random.default_rng(0).integers(0, 4, (30, 7)).astype(np.uint16)
    wanted = np.array(center_of_mass(np.ones(ids.shape), ids, range(1, 4)))[:, ::-1] + 0.5
    np.testing.assert_allclose(metrics.centroids_um(ids, mpp=2.0), 2 * wanted)
    with pytest.raises(InputError, match="number the instances"):
        metrics.centroids_um(ids.astype(np.uint64) * 2**62, mpp=2.0)


@given(points, points)
@settings(max_examples=200, deadline=None)
def test_matching_has_most_pairs_and_then_least_distance(true_xy, pred_xy):
    pairs = metrics.match_centroids(true_xy, pred_xy)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    distance = cdist(true_xy, pred_xy)
    assert (distance[tuple(pairs.T)] <= 6).all()
    short, long = sorted((distance, distance.T), key=len)[:2]
    best = min(
        (-(d := short[range(len(short)), list(choice)])[d <= 6].size, d[d <= 6].sum())
        for choice in permutations(range(len(long)), len(short))
    )
    assert len(pairs) == -best[0]
    np.testing.assert_allclose(distance[tuple(pairs.T)].sum(), best[1], atol=1e-9)


def test_matching_in_batches_equals_matching_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    true = rng.uniform(0, 300, (400, 2))
    pred = true + rng.normal(0, 4, true.shape)
    split = metrics.match_centroids(true, pred)
    monkeypatch.setattr(metrics, "_MATCH_BATCH", 7)
    np.testing.assert_array_equal(metrics.match_centroids(true, pred), split)


def test_detection_counts_each_nucleus_once():
    true = [[0, 0], [3, 0], [100, 100]]
    assert metrics.detection_f1(true, true) == 1
    assert metrics.detection_f1(true, [[1, 0]]) == pytest.approx(2 / 4)  # near two, may serve one
    assert metrics.detection_f1(true, []) == metrics.detection_f1([], true) == 0
    assert np.isnan(metrics.detection_f1([], []))
    assert metrics.detection_f1([[0, 0]], [[6, 0]]) == 1
    assert metrics.detection_f1([[0, 0]], [[6.01, 0]]) == 0
    with pytest.raises(InputError, match="not finite"):
        metrics.detection_f1([[0, np.nan]], [[0, 0]])


def test_type_counts_include_errors_of_detection():
    pairs = np.array([[0, 0], [1, 1], [3, 3]])
    true, pred = [0, 1, 2, -1], [0, 2, 1, 3, -1]
    counts = metrics.type_counts(true, pred, pairs)
    #          TP FP FN: 0 right; 1 taken for 2, and a false alarm of 1; 2 missed; 3 stands on a nucleus of no class
    np.testing.assert_array_equal(counts, [[1, 0, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]])
    assert metrics.type_f1(counts) == pytest.approx(1 / 3)  # class 3 is neither there nor predicted
    assert np.isnan(metrics.type_f1(counts * 0))
    table = metrics.type_confusion(true, pred, pairs)
    assert table[0, 0] == table[1, 2] == table[2, 4] == table[4, 1] == 1
    assert table.sum() == 4


@given(arrays(np.int8, 30, elements=st.integers(0, 3)))
def test_right_types_score_one(labels):
    pairs = np.stack([np.arange(30)] * 2, axis=1)
    counts = metrics.type_counts(labels, labels, pairs)
    assert metrics.type_f1(counts) == 1
    assert counts[:, 1:].sum() == 0
