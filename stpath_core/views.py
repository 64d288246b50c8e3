"""What an item of a folder looks like: its picture, and outlines or spots on it, ready for `plot.overlay`."""

from __future__ import annotations

import contextlib
import io as text_io
import warnings
from typing import Any

import numpy as np

from stpath_core import io, keys
from stpath_core.errors import InputError
from stpath_core.io.sniff import Found
from stpath_core.parts import opened

CELL_UM, SPOT_UM = 4.0, {"visium": 27.5, "st": 50.0, "hest": 27.5}  # radius of the circles that are drawn


def view(item: Found, *, mpp: float | None = None) -> dict[str, Any] | None:
    """Keyword arguments of `plot.overlay`: image, mpp, instances or polygons_px, zooms_um and centre_um.

    None where there is no picture. Positions without outlines become circles. The three zooms are the whole section,
    200 um and 40 um, wider where so few um are too few pixels, around what lies nearest to the middle.
    mpp : um per pixel, where the files do not say.
    """
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(text_io.StringIO()):
        try:
            if item.kind == "image":
                image, scale = io.read_image(item.path, mpp=mpp)
                return {"image": image, "mpp": scale} | _zooms(image.shape, scale, None)
            return _of(item, opened(item, mpp=mpp), mpp)
        except InputError:
            return None  # the checklist says why


def _zooms(shape: tuple[int, ...], mpp: float, xy_px: np.ndarray | None) -> dict[str, Any]:
    """Widths of the three windows and their common middle."""
    size_um = np.array(shape[1::-1]) * mpp
    centre = size_um / 2
    if xy_px is not None and len(xy_px):
        xy_um = np.asarray(xy_px) * mpp
        centre = xy_um[np.linalg.norm(xy_um - centre, axis=1).argmin()]
    whole = float(size_um.min())
    widths = (whole, min(max(200.0, 150 * mpp), whole / 2), min(max(40.0, 40 * mpp), whole / 5))
    return {"zooms_um": widths, "centre_um": tuple(centre)}


def _of(item: Found, thing: Any, mpp: float | None) -> dict[str, Any] | None:
    if isinstance(thing, io.Section):
        zooms = _zooms(thing.image.shape, thing.mpp, thing.centroids_px())
        return {"image": thing.image, "mpp": thing.mpp, "instances": thing.instances()} | zooms
    if thing is None or keys.FRAME not in thing.uns or io.frame_of(thing).to_image is None:
        return None
    frame = io.frame_of(thing)
    if item.kind == "visium":
        image, scale = next(iter(thing.uns["spatial"].values()))["images"]["hires"], frame.mpp / frame.to_image[0][0]
    else:
        image, scale = io.read_image(thing.uns["image"], mpp=frame.mpp if frame.mpp is not None else mpp)
    radius = SPOT_UM.get(item.kind, CELL_UM) / scale
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = radius * np.column_stack([np.cos(turn), np.sin(turn)])
    xy = io.positions_px(thing)
    return {"image": image, "mpp": scale, "polygons_px": xy[:, None] + circle} | _zooms(image.shape, scale, xy)
