"""Do positions lie on their image? Scores with a control: displaced copies, and positions with x and y swapped.

`labels.registration_score` measures outlines; here are points without outlines (centroids, spots), and what a swap or
a mirror would make of either.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stpath_core.errors import InputError

if TYPE_CHECKING:
    from stpath_core.io.section import Section

NUCLEUS_UM = 3.0  # radius around a centroid in which the nucleus is looked for
FAR_UM = 20.0  # of the control: farther than a nucleus is wide
COLOURED = 15  # grey levels between the channels of tissue; glass and a black mask around it have fewer


def centroid_score(image: np.ndarray, xy_px: np.ndarray, *, mpp: float) -> float:
    """Hematoxylin at centroids minus 20 um beside them, in optical density; near 0 without registration.

    image : (H, W, 3) uint8 H&E. xy_px : (N, 2) x, y. Points outside the image count as background of their control:
    0 difference, so that positions that miss the image cannot score.
    """
    from stpath_core.labels import hematoxylin

    _check(image, xy_px)
    stain = hematoxylin(image)
    here = _disc_mean(stain, xy_px, mpp=mpp)
    angles = np.arange(8) * np.pi / 4
    beside = [xy_px + FAR_UM / mpp * np.array([np.cos(a), np.sin(a)]) for a in angles]
    control = np.stack([_disc_mean(stain, xy, mpp=mpp) for xy in beside])
    known = np.isfinite(control)
    mean = np.where(known, control, 0).sum(0) / np.maximum(known.sum(0), 1)
    return float(np.where(np.isfinite(here) & known.any(0), here - mean, 0.0).mean())


def tissue_score(image: np.ndarray, xy_px: np.ndarray) -> float:
    """The share of points that lie on tissue minus the share of the image that is tissue: -1 to 1.

    For spots, which are wider than nuclei. Near 0 where the image is all tissue: then it cannot tell.
    """
    _check(image, xy_px)
    tissue = np.ptp(image, axis=2) > COLOURED  # uint8 differences of maximum and minimum do not wrap
    col, row = np.floor(xy_px).astype(np.int64).T
    inside = (row >= 0) & (col >= 0) & (row < tissue.shape[0]) & (col < tissue.shape[1])
    on = np.zeros(len(xy_px), bool)
    on[inside] = tissue[row[inside], col[inside]]
    return float(on.mean() - tissue.mean())


def alternatives(xy_px: np.ndarray, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Positions as given, and as they would be after the usual accidents; shape : (H, W) of the image."""
    x, y = np.asarray(xy_px, float).T
    h, w = shape
    return {
        "as given": np.column_stack([x, y]),
        "x and y swapped": np.column_stack([y, x]),
        "x mirrored": np.column_stack([w - x, y]),
        "y mirrored": np.column_stack([x, h - y]),
    }


def swapped(section: Section) -> Section:
    """The same section with x and y of its assay exchanged before they are laid on the image."""
    affine = section.um_to_px @ np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    back = np.linalg.inv(section.um_to_px)
    outline_um = section.nuclei_px @ back[:2, :2].T + back[:2, 2]
    moved = outline_um @ affine[:2, :2].T + affine[:2, 2]
    return replace(section, nuclei_px=moved.astype(np.float32), um_to_px=affine)


def _check(image: np.ndarray, xy_px: np.ndarray) -> None:
    if image.ndim != 3 or np.ndim(xy_px) != 2 or np.shape(xy_px)[1] != 2 or not len(xy_px):
        message = f"image {image.shape} and positions {np.shape(xy_px)}; expected (H, W, 3) and (N, 2) of at least one"
        raise InputError(message)


def _disc_mean(values: np.ndarray, xy_px: np.ndarray, *, mpp: float) -> np.ndarray:
    """Mean in discs of NUCLEUS_UM around points; nan outside the image."""
    reach = max(1, int(np.ceil(NUCLEUS_UM / mpp)))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(dx, dy) * mpp <= max(NUCLEUS_UM, mpp)
    col, row = (
        np.round(v).astype(np.int64)[:, None] + d[disc] for v, d in zip(np.asarray(xy_px).T, (dx, dy), strict=True)
    )
    inside = (row >= 0) & (col >= 0) & (row < values.shape[0]) & (col < values.shape[1])
    picked = values[np.clip(row, 0, values.shape[0] - 1), np.clip(col, 0, values.shape[1] - 1)]
    n = inside.sum(1)
    return np.where(n > 0, np.where(inside, picked, 0).sum(1) / np.maximum(n, 1), np.nan)
