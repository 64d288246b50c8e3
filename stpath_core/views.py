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
    """Keyword arguments of `plot.overlay`: image, mpp, and instances or polygons_px; None where there is no picture.

    Positions without outlines become circles. mpp : um per pixel, where the files do not say.
    """
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(text_io.StringIO()):
        try:
            if item.kind == "image":
                image, scale = io.read_image(item.path, mpp=mpp)
                return {"image": image, "mpp": scale}
            return _of(item, opened(item, mpp=mpp), mpp)
        except InputError:
            return None  # the checklist says why


def _of(item: Found, thing: Any, mpp: float | None) -> dict[str, Any] | None:
    if isinstance(thing, io.Section):
        return {"image": thing.image, "mpp": thing.mpp, "instances": thing.instances()}
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
    return {"image": image, "mpp": scale, "polygons_px": io.positions_px(thing)[:, None] + circle}
