"""What a network must beat: classical watershed on hematoxylin, and types from colour alone or by majority.

They are tuned and fitted on the training sections like the network, because a weak baseline proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from stpath_core.errors import InputError
from stpath_core.metrics import aji, overlap_table, pq
from stpath_core.stain import optical_density, unmix

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.base import ClassifierMixin

    from stpath_core.data import NucleiSection


@dataclass(frozen=True)
class ClassicalSettings:
    """Knobs of `classical_nuclei`; the defaults were chosen on training data only.

    Namely on the nine MoNuSeg tiles that the registry does not hold out, and on virtual breast, colon and lung.
    """

    smooth_um: float = 0.6  # Gaussian on the hematoxylin density
    otsu_share: float = 0.9  # foreground is above this share of Otsu's threshold ...
    local_um: float = 3.5  # ... and above the mean of a neighbourhood of this radius: splits crowded glands
    opening_um: float = 0.5  # radius of the opening that removes fibres
    hole_um2: float = 40.0  # holes under this area are filled (vesicular nuclei)
    blob_um: float = 2.5  # scale of the Laplacian of Gaussian that votes for centres beside the distance map
    blob_weight: float = 0.5  # its vote, in um of distance per standard deviation of hematoxylin
    apart_um: float = 2.5  # two centres are at least so far apart
    smallest_um2: float = 10.0  # what is smaller is no nucleus


def classical_nuclei(image: np.ndarray, mpp: float, *, settings: ClassicalSettings | None = None) -> np.ndarray:
    """Nuclei without learning: hematoxylin, Otsu with a local threshold, watershed from distance and intensity.

    image : (H, W, 3) uint8 at `mpp` um/px. Returns (H, W) int32, ids 1..n, background 0.
    """
    from scipy import ndimage as ndi
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.morphology import disk
    from skimage.segmentation import watershed

    s = settings or ClassicalSettings()
    stain = ndi.gaussian_filter(unmix(optical_density(image))[..., 0], s.smooth_um / mpp)
    if np.ptp(stain) == 0:
        return np.zeros(stain.shape, np.int32)
    inside = (stain > s.otsu_share * threshold_otsu(stain)) & (stain > ndi.gaussian_filter(stain, s.local_um / mpp))
    inside = ndi.binary_opening(inside, disk(max(1, round(s.opening_um / mpp))))
    outside, _ = ndi.label(~inside)
    hole = np.bincount(outside.ravel()) * mpp**2 < s.hole_um2
    hole[0] = False
    inside |= hole[outside]
    if not inside.any():
        return np.zeros(stain.shape, np.int32)
    blob_px = s.blob_um / mpp
    blobs = -ndi.gaussian_laplace(stain, blob_px) * blob_px**2 / stain[inside].std()
    depth = ndi.gaussian_filter(ndi.distance_transform_edt(inside) * mpp, 0.75 / mpp) + s.blob_weight * blobs
    peaks = peak_local_max(depth, min_distance=max(1, round(s.apart_um / mpp)), labels=inside, exclude_border=False)
    markers = np.zeros(stain.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    nuclei = watershed(-depth, markers, mask=inside)
    large = np.bincount(nuclei.ravel()) * mpp**2 >= s.smallest_um2
    large[0] = False
    return (np.cumsum(large) * large)[nuclei].astype(np.int32)


def tune_classical(sections: Sequence[NucleiSection], *, crop_um: float = 250.0) -> ClassicalSettings:
    """The settings of highest mean AJI + PQ on the middle of training sections, against the instances they come with.

    Tries thresholds, the local scale and the distance of centres: 18 combinations.
    """
    crops = [(middle(s.image, s.mpp, crop_um), middle(s.instances, s.mpp, crop_um), s.mpp) for s in sections]

    def score(settings: ClassicalSettings) -> float:
        tables = [overlap_table(true, classical_nuclei(image, mpp, settings=settings)) for image, true, mpp in crops]
        return float(np.nanmean([aji(table=table) + pq(table=table) for table in tables]))

    grid = product((0.8, 0.9, 1.0), (3.5, 6.0), (2.0, 2.5, 3.0))
    return max((replace(ClassicalSettings(), otsu_share=o, local_um=r, apart_um=a) for o, r, a in grid), key=score)


def middle(array: np.ndarray, mpp: float, size_um: float) -> np.ndarray:
    """The central square of an (H, W, ...) array, at most `size_um` wide."""
    side = round(size_um / mpp)
    top, left = (max(0, (n - side) // 2) for n in array.shape[:2])
    return array[top : top + side, left : left + side]


def nuclear_features(image: np.ndarray, instances: np.ndarray, mpp: float) -> pd.DataFrame:
    """Size, shape, stain and texture of each nucleus, nothing of its surroundings. One row per id, index `id`.

    image : (H, W, 3) uint8; instances : (H, W) integer ids, 0 background; mpp : um/px of both.

    Columns: area_um2; long_um, short_um (axes of the ellipse of equal second moments), eccentricity; solidity (area
    over that of the hull, here cut by 16 directions) and roundness (4 pi area / hull perimeter^2); mean and standard
    deviation of hematoxylin, eosin and red density; h_rim (hematoxylin of the outermost pixels minus the mean),
    h_grain (standard deviation of what a 1-um blur removes), h_dark (90th percentile).
    """
    import pandas as pd
    from scipy import ndimage as ndi

    _check_pair(image, instances)
    row, col = np.nonzero(instances)
    order = np.argsort(instances[row, col], kind="stable")
    row, col = row[order], col[order]
    ids, start, at, n_px = np.unique(instances[row, col], return_index=True, return_inverse=True, return_counts=True)

    def mean(value: np.ndarray) -> np.ndarray:
        return np.bincount(at, weights=value, minlength=len(ids)) / n_px

    def deviation(value: np.ndarray) -> np.ndarray:
        return np.sqrt(mean((value - mean(value)[at]) ** 2))

    x, y = (axis - mean(axis)[at] for axis in (col, row))
    xx, yy, xy = mean(x * x) + 1 / 12, mean(y * y) + 1 / 12, mean(x * y)  # a pixel is a square, not a point
    spread = np.hypot((xx - yy) / 2, xy)
    long_px, short_px = (4 * np.sqrt((xx + yy) / 2 + sign * spread) for sign in (1, -1))
    hull_area, hull_length = _hull(x, y, start) if len(ids) else (n_px, n_px)

    density = optical_density(image)
    h, e = np.moveaxis((unmix(density))[..., :2], -1, 0)
    grain = h - ndi.gaussian_filter(h, 1 / mpp)
    padded = np.pad(instances, 1)
    rim = np.zeros(len(row), bool)
    for step_row, step_col in ((0, 1), (2, 1), (1, 0), (1, 2)):
        rim |= padded[row + step_row, col + step_col] != instances[row, col]
    h, e, red, grain = h[row, col], e[row, col], density[row, col, 0], grain[row, col]
    by_h = np.lexsort((h, at))
    columns = {
        "area_um2": n_px * mpp**2,
        "long_um": long_px * mpp,
        "short_um": short_px * mpp,
        "eccentricity": np.sqrt(1 - (short_px / long_px) ** 2),
        "solidity": n_px / hull_area,
        "roundness": 4 * np.pi * n_px / hull_length**2,
        "h_mean": mean(h), "h_sd": deviation(h),
        "e_mean": mean(e), "e_sd": deviation(e),
        "red_mean": mean(red), "red_sd": deviation(red),
        "h_rim": mean(h * rim) / np.maximum(mean(rim), 1 / n_px) - mean(h),
        "h_grain": deviation(grain),
        "h_dark": h[by_h][start + (0.9 * (n_px - 1)).astype(int)],
    }  # fmt: skip
    return pd.DataFrame(columns, index=pd.Index(ids, name="id"))


def _hull(x: np.ndarray, y: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area and perimeter, in pixels, of each nucleus's hull: the polygon that 16 directions cut around its pixels.

    x, y : pixel centres relative to the nucleus, all nuclei in one run; start : where each begins. A convex body's
    support h(t) = max(x cos t + y sin t) gives its perimeter (Cauchy) and, edge by edge, its area: no loop over
    nuclei.
    """
    angle = np.arange(16) * (2 * np.pi / 16)
    support = np.stack([
        np.maximum.reduceat(x * c + y * s, start) + (abs(c) + abs(s)) / 2  # half a pixel's reach in this direction
        for c, s in zip(np.cos(angle), np.sin(angle), strict=True)
    ])  # (16, n)  # fmt: skip
    turn = angle[1]
    edge = (np.roll(support, 1, 0) + np.roll(support, -1, 0) - 2 * support * np.cos(turn)) / np.sin(turn)
    return (support * edge).sum(0) / 2, edge.sum(0)


def _check_pair(image: np.ndarray, instances: np.ndarray) -> None:
    if image.shape[:2] != instances.shape:
        message = f"image has shape {image.shape} and instances {instances.shape}; both must lie on one pixel grid"
        raise InputError(message)


def colour_features(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Mean optical density (R, G, B) inside instances 1..n: (n, 3), nan where an id is missing."""
    _check_pair(image, instances)
    row, col = np.nonzero(instances)
    ids, density = instances[row, col], optical_density(image)[row, col]
    with np.errstate(invalid="ignore"):
        return np.stack([np.bincount(ids, weights=c)[1:] / np.bincount(ids)[1:] for c in density.T], axis=1)


def colour_classifier() -> ClassifierMixin:
    """Logistic regression on `colour_features`, classes weighted equally: how much of a type is mere colour."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))


def majority_classifier() -> ClassifierMixin:
    """Always the commonest class of the training labels."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="most_frequent")


def fit_types(
    classifier: ClassifierMixin, features: Iterable[np.ndarray], labels: Iterable[np.ndarray]
) -> ClassifierMixin:
    """Fit on the nuclei of all sections whose label is known: features (n, F) and labels (n,), -1 unknown, of
    each."""
    features, labels = np.concatenate(list(features)), np.concatenate(list(labels))
    known = (labels >= 0) & np.isfinite(features).all(1)
    if not known.any():
        message = (
            f"none of the {len(labels)} nuclei has a known label; a type baseline needs some: check the stage file"
        )
        raise InputError(message)
    return classifier.fit(features[known], labels[known])


def predict_types(classifier: ClassifierMixin, features: np.ndarray) -> np.ndarray:
    """Class index of each nucleus, (n,): features (n, F); -1 where a feature is not finite."""
    known = np.isfinite(features).all(1)
    types = np.full(len(features), -1)
    if known.any():
        types[known] = classifier.predict(features[known])
    return types
