"""Network maps -> nuclei: marker-controlled watershed on the predicted depth."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

# Nuclear probability above which a pixel is nucleus. Under a half, because a strange stain makes a network hesitate
# more than it makes it invent. This, the distance of centres and the depth of a marker were chosen by training on six
# MoNuSeg tiles and looking at three others, twice with other tiles and two seeds each; none of the six looked at is
# among the registry's held-out cases.
THRESHOLD = 0.45


def instances_from_maps(
    probability: np.ndarray,
    depth: np.ndarray,
    *,
    mpp: float,
    threshold: float = THRESHOLD,
    min_area_um2: float = 8.0,
    min_distance_um: float = 2.5,
    min_depth: float = 0.2,
    smooth_um: float = 0.5,
) -> np.ndarray:
    """Split the nuclear pixel map into nuclei.

    probability : (H, W) in [0, 1]; depth : (H, W), a cone per nucleus: 1 at its centre, 0 at its border, whatever its
    size or shape; mpp of that grid. The cones' peaks are the markers, their valleys the borders between touching
    nuclei. Returns (H, W) int32, ids 1..n; an empty map gives zeros.
    """
    inside = ndimage.binary_fill_holes(probability > threshold)
    depth = ndimage.gaussian_filter(np.clip(depth, 0, 1).astype(np.float32) * inside, smooth_um / mpp)
    peaks = peak_local_max(
        depth, min_distance=max(1, round(min_distance_um / mpp)), threshold_abs=min_depth, exclude_border=False
    )
    # A blob whose depth nowhere reaches a peak is a nucleus of its own: faint, but there.
    blobs, n_blobs = ndimage.label(inside)
    markers = np.zeros(inside.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    bare = np.setdiff1d(np.arange(1, n_blobs + 1), blobs[tuple(peaks.T)])
    if len(bare):
        centres = np.array(ndimage.maximum_position(depth, blobs, bare), int).reshape(-1, 2)
        markers[tuple(centres.T)] = len(peaks) + np.arange(1, len(bare) + 1)
    labels = watershed(-depth, markers, mask=inside)
    return renumber(labels, min_pixels=min_area_um2 / mpp**2)


def renumber(labels: np.ndarray, *, min_pixels: float = 0) -> np.ndarray:
    """Drop instances under `min_pixels` and number the rest 1..n in their old order. (H, W) -> (H, W) int32."""
    size = np.bincount(labels.ravel())
    keep = size >= max(min_pixels, 1)
    keep[0] = False
    table = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return table[labels]
