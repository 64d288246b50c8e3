"""Nuclei: PQ and AJI, class vote, and the watershed beside the network it serves. Run by `make bench`."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from bench_metrics import ellipses, masks_one_by_one
from bench_metrics import ours as pq_aji
from beside import close, race, sizes, write
from scipy.ndimage import distance_transform_edt

from stpath_core import metrics
from stpath_core.models.nuclei import NucleiNet, pool_nuclei
from stpath_core.postprocess import instances_from_maps
from stpath_core.predict import _network_maps

ABOVE = 0.5 + 1e-6  # peers match at >=, Kirillov and we at >: with this all mean the same pairs


def stardist_pq(true: np.ndarray, pred: np.ndarray) -> float:
    from stardist.matching import matching

    return matching(true, pred, thresh=ABOVE).panoptic_quality


def cellpose_scores(true: np.ndarray, pred: np.ndarray) -> tuple[int, float]:
    from cellpose.metrics import aggregated_jaccard_index, average_precision

    return int(average_precision([true], [pred], threshold=[ABOVE])[1][0, 0]), aggregated_jaccard_index([true], [pred])[
        0
    ]


def scores(side: int) -> list[dict]:
    """PQ and AJI of side x side nuclei; peers see the same two maps (StarDist works in float32)."""
    rng = np.random.default_rng(0)
    size = round(side * 100 / 3)
    true, pred = ellipses(rng, n=side**2, size_px=size), ellipses(rng, n=side**2, size_px=size, shift_px=2.0)
    table = metrics.overlap_table(true, pred)
    matched = len(metrics.match_instances(table)[0])

    def with_cellpose(ours: tuple, theirs: tuple) -> str:
        """Its average precision gives the matches; its AJI pairs one to one, so it is another number, a little more."""
        assert theirs[0] == matched
        assert -1e-9 <= theirs[1] - ours[1] < 0.03
        return f"{matched} matches each; its AJI (one to one) is {theirs[1] - ours[1]:+.4f} of ours (MoNuSeg's)"

    peers = {"StarDist matching (PQ alone)": lambda: stardist_pq(true, pred)}
    equal = {"StarDist matching (PQ alone)": lambda a, b: close(1e-6, "PQ")(a[0], b)}
    peers["Cellpose metrics (AP and AJI)"], equal["Cellpose metrics (AP and AJI)"] = (
        lambda: cellpose_scores(true, pred), with_cellpose,
    )  # fmt: skip
    if side <= 30:
        peers["a full-image mask per nucleus"] = lambda: masks_one_by_one(true, pred)
        equal["a full-image mask per nucleus"] = close(1e-9, "PQ and AJI")
    return race(
        "PQ and AJI", f"{size} x {size} px, {side**2:,} nuclei", lambda: pq_aji(true, pred), peers, equal=equal,
        goal={"StarDist matching (PQ alone)": 5.0},
    )  # fmt: skip


def vote(side: int, *, classes: int = 6) -> list[dict]:
    """Class of each nucleus from the class probabilities (H, W, 6) of its pixels, with the features that the type head
    reads: mean and spread of each map over the nucleus, its area and half axes.

    scikit-image gives the same features, or the mean alone, which is all that a vote needs and less than we do.
    """
    rng = np.random.default_rng(1)
    size = round(side * 100 / 3)
    ids = ellipses(rng, n=side**2, size_px=size)
    chance = rng.random((size, size, classes), dtype=np.float32)
    maps, mask = torch.from_numpy(chance).permute(2, 0, 1)[None].contiguous(), torch.from_numpy(ids)[None]
    features = (maps, maps[:, :3], maps[:, :, ::8, ::8].contiguous())

    def ours() -> dict[str, np.ndarray]:
        pooled = pool_nuclei(features, mask)[0].numpy()
        mean, spread, shape = pooled[:, :classes], pooled[:, classes + 3 : 2 * classes + 3], np.exp(pooled[:, -9:-6])
        axes = 4 * np.sqrt(shape[:, 1:] ** 2 - 1 / 12)  # scikit-image's pixels have no width
        return {"class": mean.argmax(1), "mean": mean, "spread": spread, "area": shape[:, 0], "axes": axes}

    def one_by_one() -> dict[str, np.ndarray]:
        return {"class": np.array([chance[ids == i].mean(0).argmax() for i in range(1, side**2 + 1)])}

    def regions() -> dict[str, np.ndarray]:
        from skimage.measure import regionprops

        return {"class": np.array([r.intensity_mean.argmax() for r in regionprops(ids, intensity_image=chance)])}

    def same_features() -> dict[str, np.ndarray]:
        from skimage.measure import regionprops_table

        wanted = ("intensity_mean", "intensity_std", "area", "axis_major_length", "axis_minor_length")
        found = regionprops_table(ids, intensity_image=chance, properties=wanted)
        mean, spread = (np.stack([found[f"{w}-{k}"] for k in range(classes)], 1) for w in wanted[:2])
        axes = np.stack([found[f"axis_{name}_length"] for name in ("major", "minor")], 1)
        return {"class": mean.argmax(1), "mean": mean, "spread": spread, "area": found["area"], "axes": axes}

    def agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> str:
        assert np.array_equal(ours["class"], theirs["class"])
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, err_msg=name)
        return "the same " + ", ".join(theirs)

    peers = {"scikit-image, the same features": same_features, "scikit-image, the mean alone": regions}
    if side <= 30:
        peers["a boolean mask per nucleus, the mean alone"] = one_by_one
    where = f"{size} x {size} px, {side**2:,} nuclei, {classes} classes"
    return race("class and features of nuclei", where, ours, peers, equal=dict.fromkeys(peers, agree))


def watershed_share(size: int) -> list[dict]:
    """Processor time from maps to nuclei beside the network's own on the same pixels: one view, and eight as is usual.

    The network is the smallest that the notebooks train, on one core; its weights do not matter here, so the maps are
    drawn: discs of the density of tissue with cones in them.
    """
    rng = np.random.default_rng(2)
    side = round(size * 3 / 100)
    ids = ellipses(rng, n=side**2, size_px=size)
    away = distance_transform_edt(ids > 0)
    depth = (away / away.max()).astype(np.float32)
    chance = np.where(ids > 0, 0.9, 0.1).astype(np.float32)
    model = NucleiNet(classes=("a", "b", "c", "d")).eval()
    image = rng.integers(0, 256, (size, size, 3), np.uint8)

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
        return float(np.median(times))

    splitting = seconds(lambda: instances_from_maps(chance, depth, mpp=0.5))
    found = int(instances_from_maps(chance, depth, mpp=0.5).max())
    rows = []
    for name, views in (("the network, one view", False), ("the network, mean of eight views", True)):
        network = seconds(lambda views=views: _network_maps(model, image, 0.5, average_views=views))
        share = splitting / network
        rows.append({
            "subject": "maps to nuclei", "size": f"{size} x {size} px, {found:,} nuclei", "peer": name,
            "equal": "not a peer: the same pixels, processor seconds", "ours_ms": round(1e3 * splitting, 1),
            "peer_ms": round(1e3 * network, 1), "ratio": round(1 / share, 2), "share": round(share, 3),
            "goal": 5.0, "met": bool(share <= 0.2),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    smoke = sizes()
    rows = []
    for side in (9,) if smoke else (15, 30, 90):
        rows += scores(side)
        rows += vote(side)
        if not smoke:
            write("speed_nuclei", rows)
    for size in (128,) if smoke else (512, 1024, 2048):
        rows += watershed_share(size)
    if not smoke:
        write("speed_nuclei", rows)


if __name__ == "__main__":
    main()
