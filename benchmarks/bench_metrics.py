"""Time the nuclei metrics beside their peers: `python benchmarks/bench_metrics.py [--out FILE]` prints and writes JSON.

A 1000 x 1000 image with 900 nuclei, about a third of the pixels covered. Peers: the loop over full-image masks that
many evaluation scripts use (written here), and StarDist and Cellpose where they are installed. Medians of repeats.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from stpath_core import metrics


def ellipses(rng: np.random.Generator, *, n: int = 900, size_px: int = 1000, shift_px: float = 0.0) -> np.ndarray:
    """Instance map of n jittered discs on a grid."""
    side = round(n**0.5)
    step = size_px / side
    row, col = (np.stack(np.divmod(np.arange(n), side)) + 0.5) * step + rng.normal(0, 2, (2, n)) + shift_px
    radius = rng.uniform(8, 12, n)
    y, x = np.mgrid[:size_px, :size_px]
    ids = np.minimum(y // step, side - 1).astype(int) * side + np.minimum(x // step, side - 1).astype(int)
    inside = (y - row[ids]) ** 2 + (x - col[ids]) ** 2 < radius[ids] ** 2
    return np.where(inside, ids + 1, 0).astype(np.int32)


def masks_one_by_one(true: np.ndarray, pred: np.ndarray) -> tuple[float, float]:
    """PQ and AJI with a full-image mask per nucleus."""
    iou_sum = matched = inter_sum = union_sum = 0.0
    used = set()
    pred_ids = np.unique(pred[pred > 0])
    for i in np.unique(true[true > 0]):
        mask = true == i
        best = (0.0, 0, 0, 0)
        for j in np.unique(pred[mask & (pred > 0)]):
            other = pred == j
            inter, union = np.count_nonzero(mask & other), np.count_nonzero(mask | other)
            best = max(best, (inter / union, -j, inter, union))
        iou, j, inter, union = best
        inter_sum, union_sum = inter_sum + inter, union_sum + (union or np.count_nonzero(mask))
        used.add(-j)
        if iou > 0.5:
            iou_sum, matched = iou_sum + iou, matched + 1
    union_sum += sum(np.count_nonzero(pred == j) for j in pred_ids if j not in used)
    n_true = len(np.unique(true[true > 0]))
    return 2 * iou_sum / (n_true + len(pred_ids)), inter_sum / union_sum


def milliseconds(call: Callable[[], object], *, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return round(1000 * float(np.median(times)), 2)


def ours(true: np.ndarray, pred: np.ndarray) -> tuple[float, float]:
    table = metrics.overlap_table(true, pred)
    return metrics.pq(table=table), metrics.aji(table=table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    true, pred = ellipses(rng), ellipses(rng, shift_px=2.0)
    true_xy, pred_xy = (metrics.centroids_um(ids, mpp=0.5) for ids in (true, pred))
    np.testing.assert_allclose(ours(true, pred), masks_one_by_one(true, pred))
    result = {
        "image": "1000 x 1000, 900 nuclei", "machine": f"{platform.machine()}, numpy {np.__version__}",
        "stpath PQ + AJI": milliseconds(lambda: ours(true, pred), repeats=20),
        "mask per nucleus PQ + AJI": milliseconds(lambda: masks_one_by_one(true, pred), repeats=1),
        "stpath bPQ over 256-px tiles": milliseconds(lambda: metrics.bpq_tiles(true, pred, mpp=0.5), repeats=10),
        "stpath centroid matching": milliseconds(lambda: metrics.match_centroids(true_xy, pred_xy), repeats=10),
    }  # fmt: skip
    if find_spec("stardist"):
        from stardist.matching import matching

        result["StarDist matching"] = milliseconds(lambda: matching(true, pred), repeats=5)
    if find_spec("cellpose"):
        from cellpose.metrics import aggregated_jaccard_index, average_precision

        result["Cellpose AP + AJI"] = milliseconds(
            lambda: (average_precision([true], [pred]), aggregated_jaccard_index([true], [pred])), repeats=3
        )
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
