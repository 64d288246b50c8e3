"""The frame of coordinates: unit, micrometres per pixel, origin and the way to the image. A mismatch raises."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.guard import told

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What x and y of a table mean.

    unit : "um", or "px" of the full-resolution image. mpp : um per pixel: of the coordinates where they are in
    pixels, else of the image; None: not known. mpp_from : where it comes from ("file", "given", "derived: ...").
    origin : x, y of the image's corner, in `unit`.
    to_image : (3, 3) affine, coordinates -> pixels of the image that can be opened; None: there is no image.
    """

    unit: Literal["um", "px"]
    mpp: float | None = None
    mpp_from: str = ""
    origin: tuple[float, float] = (0.0, 0.0)
    to_image: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("um", "px"):
            message = f"unit={self.unit!r}; coordinates are in 'um' or in 'px' of the full-resolution image"
            raise InputError(message)
        if self.mpp is not None and not 0 < self.mpp < np.inf:
            message = f"mpp={self.mpp}; expected micrometres per pixel, above 0"
            raise InputError(message)
        for name, shape in (("origin", (2,)), ("to_image", (3, 3))):
            value = getattr(self, name)
            if value is not None and not (np.shape(value) == shape and np.isfinite(value).all()):
                message = f"{name}={value!r}; expected finite numbers of shape {shape}"
                raise InputError(message)

    def um(self, xy: np.ndarray) -> np.ndarray:
        """(..., 2) coordinates in this frame -> um from the image's corner."""
        moved = np.asarray(xy, float) - np.asarray(self.origin)
        if self.unit == "um":
            return moved
        if self.mpp is None:
            message = "coordinates are in pixels and nothing says how many micrometres a pixel is: pass mpp"
            raise InputError(message)
        return moved * self.mpp

    def px(self, xy: np.ndarray) -> np.ndarray:
        """(..., 2) coordinates in this frame -> pixels of the image that can be opened."""
        if self.to_image is None:
            message = "these coordinates come without an image; give the image, or compare in micrometres"
            raise InputError(message)
        affine = np.asarray(self.to_image)
        return np.asarray(xy, float) @ affine[:2, :2].T + affine[:2, 2]


def set_frame(adata: AnnData, frame: Frame) -> None:
    """Write the frame of obsm["spatial"] into uns, as h5ad and zarr can store it."""
    record = {k: v for k, v in asdict(frame).items() if v is not None}
    record["origin"] = np.array(frame.origin, float)
    if frame.to_image is not None:
        record["to_image"] = np.array(frame.to_image, float)
    adata.uns[keys.FRAME] = record


def frame_of(adata: AnnData) -> Frame:
    """The frame of obsm["spatial"]; InputError where none was written, because a unit is never guessed."""
    if keys.SPATIAL not in adata.obsm:
        message = f"the table has no obsm['{keys.SPATIAL}']: it holds no positions"
        raise InputError(message)
    if keys.FRAME not in adata.uns:
        message = f"the table has positions and no uns['{keys.FRAME}']: say their unit with io.set_frame(adata, "
        raise InputError(message + "io.Frame(unit='um')), or open the file with a reader of stpath_core.io")
    try:
        return _of_record(dict(adata.uns[keys.FRAME]))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:  # what somebody else's program has put there
        message = f"uns['{keys.FRAME}'] is no frame ({type(error).__name__}: {told(error)}): write it with io.set_frame"
        raise InputError(message) from error


def _of_record(record: dict[str, Any]) -> Frame:
    affine = record.get("to_image")
    return Frame(
        unit=str(record["unit"]),
        mpp=None if record.get("mpp") is None else float(record["mpp"]),
        mpp_from=str(record.get("mpp_from", "")),
        origin=tuple(float(v) for v in record.get("origin", (0.0, 0.0))),
        to_image=None if affine is None else tuple(tuple(map(float, row)) for row in np.asarray(affine)),
    )


def positions_um(adata: AnnData) -> np.ndarray:
    """(N, 2) x, y in um from the image's corner, whatever unit the table holds."""
    return frame_of(adata).um(adata.obsm[keys.SPATIAL])


def positions_px(adata: AnnData) -> np.ndarray:
    """(N, 2) x, y in pixels of the image that can be opened, whatever unit the table holds."""
    return frame_of(adata).px(adata.obsm[keys.SPATIAL])


def same_frame(*tables: AnnData) -> Frame:
    """The frame that all tables share; InputError where units or scales differ, before they are compared."""
    frames = [frame_of(table) for table in tables]
    for other in frames[1:]:
        differs = other.unit != frames[0].unit
        if other.unit == "px" and not differs:
            scales = [frame.mpp for frame in (frames[0], other)]
            differs = None in scales or max(scales) > 1.02 * min(scales)
        if differs:
            said = [f"{f.unit} at {f.mpp} um per pixel" if f.unit == "px" else "um" for f in (frames[0], other)]
            message = f"one table is in {said[0]}, another in {said[1]}: compare io.positions_um of both"
            raise InputError(message)
    return frames[0]
