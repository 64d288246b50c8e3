"""Scores of nuclei: one overlap table for PQ, AJI and Dice; one matching of centroids for detection and type F1.

Every score of masks takes two instance maps `(H, W)` of integer ids (0 is background) or the `table` made from them
once. Undefined is nan, never 0: what is nan is left out of a mean, not averaged into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpath_core.errors import InputError

_TABLE = 20_000_000  # ids up to this are counted as they stand; larger ones get new numbers
_MATCH_BATCH = 500  # true nuclei solved together


@dataclass(frozen=True)
class OverlapTable:
    """Who overlaps whom, in pixels: n true nuclei, m predicted ones, k pairs that share at least one pixel.

    true_ids (n,), pred_ids (m,) : ids as they stand in the maps, ascending
    true_area (n,), pred_area (m,) : pixels
    row (k,), col (k,) : positions in true_ids and pred_ids, sorted by row and then by col
    intersection (k,), union (k,) : pixels of each pair
    """

    true_ids: np.ndarray
    pred_ids: np.ndarray
    true_area: np.ndarray
    pred_area: np.ndarray
    row: np.ndarray
    col: np.ndarray
    intersection: np.ndarray
    union: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair, (k,)."""
        return self.intersection / self.union


def overlap_table(true: np.ndarray, pred: np.ndarray) -> OverlapTable:
    """Count the shared pixels of every true and predicted nucleus in one pass.

    true, pred : (H, W) integer instance ids, 0 is background; ids need not be contiguous.
    """
    true, pred = _instance_map(true, "true"), _instance_map(pred, "pred")
    if true.shape != pred.shape:
        message = f"true has shape {true.shape} and pred {pred.shape}; both must lie on one pixel grid: resample one"
        raise InputError(message)
    start = _run_starts(true, pred)
    length = np.diff(start, append=true.size)
    (true_ids, row), (pred_ids, col) = (_numbered(ids.ravel()[start]) for ids in (true, pred))
    true_area = np.bincount(row, weights=length, minlength=len(true_ids)).astype(np.int64)  # sums below 2 ** 53: exact
    pred_area = np.bincount(col, weights=length, minlength=len(pred_ids)).astype(np.int64)
    true_area[0] = pred_area[0] = 0  # background is nobody's nucleus
    is_true, is_pred = np.flatnonzero(true_area), np.flatnonzero(pred_area)
    row, col, intersection = _summed(row, col, length, n_cols=len(pred_ids))
    return OverlapTable(
        true_ids=true_ids[is_true],
        pred_ids=pred_ids[is_pred],
        true_area=true_area[is_true],
        pred_area=pred_area[is_pred],
        row=np.searchsorted(is_true, row),
        col=np.searchsorted(is_pred, col),
        intersection=intersection,
        union=true_area[row] + pred_area[col] - intersection,
    )


def _run_starts(*maps: np.ndarray) -> np.ndarray:
    """Where runs of pixels begin, in the flat maps (of one shape): within a run, which stays in its row, no map
    changes. There are ten times fewer runs than pixels, so runs are what is counted."""
    begins = np.zeros(maps[0].size, bool)
    for ids in map(np.ravel, maps):
        begins[1:] |= ids[1:] != ids[:-1]
    begins[:: maps[0].shape[-1] or 1] = True
    return np.flatnonzero(begins)


def _summed(row: np.ndarray, col: np.ndarray, length: np.ndarray, *, n_cols: int) -> tuple[np.ndarray, ...]:
    """Pixels of each pair of nuclei, from the runs of both: row, col and sum, sorted by row and then by col."""
    nuclei = np.flatnonzero((row > 0) & (col > 0))
    key, length = row[nuclei] * n_cols + col[nuclei], length[nuclei]
    order = np.argsort(key)
    key, length = key[order], length[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    row, col = np.divmod(key[first], n_cols)
    return row, col, np.add.reduceat(length, first) if len(first) else length


def _numbered(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names of the ids 0 .. n and each id's position in them; nothing moves unless some id is beyond any table."""
    largest = int(ids.max(initial=0))
    if largest < _TABLE:
        return np.arange(largest + 1), ids.astype(np.int64)
    names, positions = np.unique(np.append(ids, ids.dtype.type(0)), return_inverse=True)
    return names, positions[:-1]


def _instance_map(ids: np.ndarray, name: str) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu" or (ids.dtype.kind == "i" and ids.size and ids.min() < 0):
        message = f"{name} has dtype {ids.dtype} or negative ids; expected integer instance ids, 0 as background"
        raise InputError(message)
    return ids


def match_instances(table: OverlapTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with IoU > 0.5: at most one partner each, so no assignment problem is left (Kirillov et al. 2019).

    Returns positions in `table.true_ids` (p,), in `table.pred_ids` (p,), and the IoU (p,). An IoU of exactly 0.5 does
    not match, as in the paper; StarDist and Cellpose use >= and count a little higher. Compared as integers: 2 I > U.
    """
    hit = 2 * table.intersection > table.union
    return table.row[hit], table.col[hit], table.iou[hit]


def pq(true: np.ndarray | None = None, pred: np.ndarray | None = None, *, table: OverlapTable | None = None) -> float:
    r"""Panoptic quality of one class ("binary PQ"): detection F1 at IoU > 0.5 times the mean IoU of the matches.

    .. math:: PQ = \frac{\sum_{TP} IoU}{TP + FP / 2 + FN / 2}

    Both maps empty: nan. One of them empty: 0. The matching rule is that of `match_instances`.

    References
    ----------
    Kirillov et al., Panoptic segmentation, CVPR 2019.
    """
    table = overlap_table(true, pred) if table is None else table
    n_both = len(table.true_ids) + len(table.pred_ids)
    if n_both == 0:
        return float("nan")
    return float(2 * match_instances(table)[2].sum() / n_both)  # TP + FP/2 + FN/2 is half of all nuclei


def aji(true: np.ndarray | None = None, pred: np.ndarray | None = None, *, table: OverlapTable | None = None) -> float:
    r"""Aggregated Jaccard index, as the MoNuSeg challenge's own code computes it.

    .. math:: AJI = \frac{\sum_i |T_i \cap P_{j(i)}|}{\sum_i |T_i \cup P_{j(i)}| + \sum_{unused} |P_j|}

    j(i) is the prediction of highest IoU with true nucleus i, the lowest id in a tie. As in that code a prediction
    may serve any number of true nuclei (each time with its whole union); a true nucleus that nothing touches adds its
    own area to the denominator, and so does every prediction that served nobody. Other scores of that name choose
    partners one to one (AJI+, Cellpose): they are higher by some .01 to .02 on one pair of maps. Both maps empty:
    nan. One of them empty: 0.

    References
    ----------
    Kumar et al., A dataset and a technique for generalized nuclear segmentation, IEEE TMI 2017.
    """
    table = overlap_table(true, pred) if table is None else table
    if len(table.true_ids) + len(table.pred_ids) == 0:
        return float("nan")
    best = _first_best_of_row(table.row, table.iou)
    unused = np.ones(len(table.pred_ids), bool)
    unused[table.col[best]] = False
    untouched = np.ones(len(table.true_ids), bool)
    untouched[table.row[best]] = False
    outside = table.pred_area[unused].sum() + table.true_area[untouched].sum()
    return float(table.intersection[best].sum() / (table.union[best].sum() + outside))


def _first_best_of_row(row: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Position of the highest value within each run of equal `row` (sorted), the first one in a tie."""
    if len(row) == 0:
        return np.zeros(0, np.intp)
    starts = np.flatnonzero(np.diff(row, prepend=row[0] - 1))
    highest = np.repeat(np.maximum.reduceat(value, starts), np.diff(starts, append=len(row)))
    at_highest = np.flatnonzero(value == highest)
    return at_highest[np.diff(row[at_highest], prepend=-1) != 0]


def dice(true: np.ndarray | None = None, pred: np.ndarray | None = None, *, table: OverlapTable | None = None) -> float:
    r"""Dice of the foregrounds, instances forgotten: :math:`2 |T \cap P| / (|T| + |P|)`.

    Both maps empty: nan. One of them empty: 0.
    """
    table = overlap_table(true, pred) if table is None else table
    area = table.true_area.sum() + table.pred_area.sum()
    return float(2 * table.intersection.sum() / area) if area else float("nan")


def bpq_tiles(
    true: np.ndarray, pred: np.ndarray, *, mpp: float, tile_px: int = 256, tile_mpp: float = 0.5
) -> np.ndarray:
    """PQ of every tile that holds a true nucleus, (n_tiles,): average these for bPQ.

    The maps are brought to `tile_mpp` um/px (nearest neighbour) and cut into squares of `tile_px`, instances with
    them, as in PanNuke. A tile without a true nucleus is left out whatever was predicted there (PanNuke's rule; false
    alarms on empty glass are counted by detection F1 and AJI). A rest at the right or lower edge is a tile if it
    measures half a tile or more.
    """
    true, pred = (resample_nearest(_instance_map(ids, "ids"), mpp=mpp, to_mpp=tile_mpp) for ids in (true, pred))
    scores = [
        pq(true[rows, cols], pred[rows, cols])
        for rows in _tile_slices(true.shape[0], tile_px)
        for cols in _tile_slices(true.shape[1], tile_px)
        if true[rows, cols].any()
    ]
    return np.array(scores, float)


def _tile_slices(size: int, tile: int) -> list[slice]:
    starts = [start for start in range(0, size, tile) if start == 0 or size - start >= tile / 2]
    return [slice(start, start + tile) for start in starts]


def resample_nearest(ids: np.ndarray, *, mpp: float, to_mpp: float) -> np.ndarray:
    """An instance map (H, W) at `mpp` um/px on the grid of `to_mpp` um/px, by the id under each new pixel's
    centre."""
    if np.isclose(mpp, to_mpp):
        return ids
    shape = [max(1, round(size * mpp / to_mpp)) for size in ids.shape]
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * (to_mpp / mpp)).astype(np.intp), size - 1)
        for n, size in zip(shape, ids.shape, strict=True)
    )
    return ids[rows[:, None], cols]


def centroids_um(instances: np.ndarray, *, mpp: float) -> np.ndarray:
    """Centre of mass of instances 1..n as (n, 2) x, y in um; nan where an id is missing.

    Pixel (row i, column j) has its centre at x = (j + .5) * mpp, y = (i + .5) * mpp.
    """
    start = _run_starts(_instance_map(instances, "instances"))
    length, ids = np.diff(start, append=instances.size), instances.ravel()[start].astype(np.int64)
    if int(instances.max(initial=0)) >= _TABLE:
        message = f"ids of instances go up to {instances.max()}; number the instances 1..n"
        raise InputError(message)
    start, length, ids = (v[ids > 0] for v in (start, length, ids))
    row, col = np.divmod(start, instances.shape[1])
    area = np.bincount(ids, weights=length)[1:]
    sums = (np.bincount(ids, weights=length * middle)[1:] for middle in (col + length / 2, row + 0.5))
    with np.errstate(invalid="ignore"):
        return np.stack([s / area for s in sums], axis=1) * mpp


def match_centroids(true_xy_um: np.ndarray, pred_xy_um: np.ndarray, *, radius_um: float = 6.0) -> np.ndarray:
    """One-to-one pairs of centroids at most `radius_um` apart: as many pairs as possible, and of those the shortest
    in sum.

    true_xy_um : (n, 2), pred_xy_um : (m, 2). Returns (k, 2) positions (true, predicted), sorted by the true one.

    Solved exactly on the sparse graph of candidates. Every true nucleus also has a private "nobody" partner that
    costs more than any detour through real ones, so a full matching always exists and has the most real pairs.
    """
    from scipy.sparse.csgraph import (
        connected_components,
    )  # here: training imports this module where scipy is not needed
    from scipy.spatial import cKDTree

    true_xy_um, pred_xy_um = (np.asarray(xy, float).reshape(-1, 2) for xy in (true_xy_um, pred_xy_um))
    n, m = len(true_xy_um), len(pred_xy_um)
    if not (np.isfinite(true_xy_um).all() and np.isfinite(pred_xy_um).all()):
        message = "some centroids are not finite; an id without pixels has none: number the instances 1..n"
        raise InputError(message)
    if n == 0 or m == 0:
        return np.zeros((0, 2), np.intp)
    near = cKDTree(true_xy_um).sparse_distance_matrix(cKDTree(pred_xy_um), radius_um, output_type="coo_matrix")
    near.resize(n + m, n + m)
    near.col += n  # one node per nucleus, true ones first
    _, component = connected_components(near, directed=False)
    n_before = np.cumsum(np.bincount(component[:n]))[component[near.row]]
    batch = (
        n_before // _MATCH_BATCH
    )  # whole components, some hundred nuclei together: the solver is quadratic in their number
    order = np.argsort(batch, kind="stable")
    edges = np.split(order, np.flatnonzero(np.diff(batch[order])) + 1) if len(order) else []
    parts = [_match_candidates(near.row[e], near.col[e] - n, near.data[e], radius_um=radius_um) for e in edges]
    pairs = np.concatenate([np.zeros((0, 2), np.intp), *parts])
    return pairs[np.argsort(pairs[:, 0])]


def _match_candidates(row: np.ndarray, col: np.ndarray, distance_um: np.ndarray, *, radius_um: float) -> np.ndarray:
    """Best one-to-one choice among the candidate pairs row, col, distance_um (k,), as (p, 2) of row and col
    values."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    rows, i = np.unique(row, return_inverse=True)
    cols, j = np.unique(col, return_inverse=True)
    n, m = len(rows), len(cols)
    nobody = np.full(n, 1.0 + radius_um * (n + 1))
    cost = np.concatenate([1.0 + distance_um, nobody])  # 1 more for all: scipy takes an explicit 0 for no edge
    i, j = np.concatenate([i, np.arange(n)]), np.concatenate([j, m + np.arange(n)])
    i, j = min_weight_full_bipartite_matching(coo_array((cost, (i, j)), shape=(n, m + n)).tocsr())
    return np.stack([rows[i[j < m]], cols[j[j < m]]], axis=1)


def f1(counts: np.ndarray) -> np.ndarray | float:
    """2 TP / (2 TP + FP + FN) over the last axis of (..., 3) counts [TP, FP, FN]; nan where all three are 0."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, float), -1, 0)
    with np.errstate(invalid="ignore"):
        return 2 * tp / (2 * tp + fp + fn)


def detection_f1(true_xy_um: np.ndarray, pred_xy_um: np.ndarray, *, radius_um: float = 6.0) -> float:
    """F1 of finding nuclei: centroids (n, 2) and (m, 2) matched one to one within `radius_um`. Both empty: nan."""
    tp = len(match_centroids(true_xy_um, pred_xy_um, radius_um=radius_um))
    return float(f1([tp, len(pred_xy_um) - tp, len(true_xy_um) - tp]))


def type_counts(
    true_labels: np.ndarray, pred_labels: np.ndarray, pairs: np.ndarray, *, n_classes: int = 4
) -> np.ndarray:
    """[TP, FP, FN] of every class, (n_classes, 3), errors of detection included. Counts of images may be added up.

    true_labels (n,), pred_labels (m,) : class index of each nucleus, -1 unknown; pairs (k, 2) from `match_centroids`.
    TP: matched and of one class. FP: predicted as the class without such a match. FN: of the class without such a
    match. A nucleus whose true class is unknown is nobody's miss, and what was matched to it nobody's false alarm.
    """
    true_labels, pred_labels = np.asarray(true_labels, np.intp), np.asarray(pred_labels, np.intp)
    true, pred = true_labels[pairs[:, 0]], pred_labels[pairs[:, 1]]
    judged = np.ones(len(pred_labels), bool)
    judged[pairs[true < 0, 1]] = False
    tp = _tally(true[true == pred], n_classes)
    return np.stack([tp, _tally(pred_labels[judged], n_classes) - tp, _tally(true_labels, n_classes) - tp], axis=1)


def _tally(labels: np.ndarray, n_classes: int) -> np.ndarray:
    return np.bincount(labels[labels >= 0], minlength=n_classes)


def type_f1(counts: np.ndarray) -> float:
    """Macro F1 over the classes of (n_classes, 3) counts. A class neither there nor predicted is left out; all so:
    nan."""
    per_class = f1(counts)
    return float(np.mean(per_class[~np.isnan(per_class)])) if not np.isnan(per_class).all() else float("nan")


def type_confusion(
    true_labels: np.ndarray, pred_labels: np.ndarray, pairs: np.ndarray, *, n_classes: int = 4
) -> np.ndarray:
    """Nuclei by true (rows) and predicted class (columns), (n_classes + 1, n_classes + 1).

    The last row holds predictions that match no true nucleus, the last column true nuclei that nobody found. Matched
    pairs with an unknown class on either side are left out.
    """
    true_labels, pred_labels = np.asarray(true_labels, np.intp), np.asarray(pred_labels, np.intp)
    true, pred = true_labels[pairs[:, 0]], pred_labels[pairs[:, 1]]
    known = (true >= 0) & (pred >= 0)
    size = n_classes + 1
    table = np.bincount(true[known] * size + pred[known], minlength=size * size).reshape(size, size)
    table[:n_classes, n_classes] = _tally(np.delete(true_labels, pairs[:, 0]), n_classes)
    table[n_classes, :n_classes] = _tally(np.delete(pred_labels, pairs[:, 1]), n_classes)
    return table
