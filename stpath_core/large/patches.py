"""Patches around the spots of a slide larger than memory, read window by window, to features in CLAM's HDF5 layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stpath_core.errors import InputError
from stpath_core.features import tile_features
from stpath_core.fit import Progress
from stpath_core.io.features import write_features
from stpath_core.io.slides import Slide
from stpath_core.parallel import on_scheduler
from stpath_core.spots import ENCODER, PATCH_UM, check_spots, cut_at, first_pixels, patch_corners, patch_side

WINDOW_PX = 4096
AT_ONCE = 64  # patches to the encoder


class _Job(NamedTuple):
    """Spots of one window: their rows (m,) and the upper left pixels of their patches (m, 2; x, y)."""

    rows: np.ndarray
    first: np.ndarray


def spot_features(
    slide: Slide,
    centres_um: np.ndarray,
    path: str | Path,
    *,
    patch_um: float = PATCH_UM,
    encode: Callable[[np.ndarray], np.ndarray] | None = None,
    encoder: str = ENCODER,
    scheduler: Any = None,
    progress: Progress = iter,
) -> Path:
    """Write one row of features per spot of a slide, as `spots.section_features` gives for an image in memory.

    centres_um : (n, 2) x, y from the slide's corner, in the order of the rows. path : an HDF5 file with `features` and
    `coords`, written whole or not at all. encode : (b, patch_px, patch_px, 3) uint8 at the slide's resolution ->
    (b, d), None for `features.tile_features`; encoder : its name, for the file. scheduler : see `large`.
    """
    slide = slide.whole_path()
    centres_px = np.asarray(centres_um, float) / slide.mpp
    if centres_px.ndim != 2 or centres_px.shape[1] != 2 or not len(centres_px):
        message = f"centres_um has shape {centres_px.shape}; expected (n, 2), x and y in um, of at least one spot"
        raise InputError(message)
    patch_px = patch_side(patch_um, slide.mpp)
    check_spots(centres_px, slide.shapes[0])
    cut = partial(_encode, slide, patch_px, encode or partial(tile_features, mpp=slide.mpp))
    jobs = list(_jobs(first_pixels(centres_px, patch_px=patch_px)))
    features = None
    for job, part in zip(jobs, on_scheduler(cut, progress(jobs), scheduler=scheduler), strict=True):
        features = np.empty((len(centres_px), part.shape[1]), np.float32) if features is None else features
        features[job.rows] = part
    coords = patch_corners(centres_px, patch_px=patch_px)
    return write_features(path, features, coords, patch_px=patch_px, mpp=slide.mpp, encoder=encoder)


def _jobs(first: np.ndarray) -> Iterator[_Job]:
    """The spots by windows of WINDOW_PX, in reading order."""
    place = first // WINDOW_PX
    _, window = np.unique(place[:, ::-1], axis=0, return_inverse=True)
    order = np.argsort(window, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(window[order])) + 1):
        yield _Job(rows, first[rows])


def _encode(slide: Slide, patch_px: int, encode: Callable[[np.ndarray], np.ndarray], job: _Job) -> np.ndarray:
    """(m, d) float32 features of the patches of one window, of which only what they cover is read."""
    height, width = slide.shapes[0]
    x, y = np.maximum(job.first.min(0), 0)
    right, bottom = np.minimum(job.first.max(0) + patch_px, (width, height))
    image = slide.window(slice(y, bottom), slice(x, right))
    parts = [
        encode(cut_at(image, job.first[i : i + AT_ONCE] - (x, y), patch_px=patch_px))
        for i in range(0, len(job.first), AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.float32)
