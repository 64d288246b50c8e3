"""Slides too large to be read whole: a region, at a level of the pyramid, in micrometres."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stpath_core.errors import InputError
from stpath_core.io.guard import check_picture, check_tiff, told
from stpath_core.io.images import TIFF_SUFFIXES, as_rgb, check_image_path, settle_mpp, tiff_mpp

_SAME_PICTURE = 0.02  # by how much the proportions of a level may differ from those of the first


@dataclass(frozen=True)
class Slide:
    """An image on disk. Nothing is read before `region` asks for it.

    path : of the file. mpp : um per pixel at level 0. shapes : (height, width) of each level, largest first.
    """

    path: Path
    mpp: float
    shapes: tuple[tuple[int, int], ...]
    series: tuple[tuple[int, int], ...] = ((0, 0),)  # of each level: series and level in the TIFF

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height of the slide."""
        return self.shapes[0][1] * self.mpp, self.shapes[0][0] * self.mpp

    def level_mpp(self, level: int) -> float:
        """um per pixel of a level."""
        return self.mpp * self.shapes[0][1] / self.shapes[level][1]

    def whole_path(self) -> Slide:
        """The same by its absolute path: a worker elsewhere stands in another folder."""
        return replace(self, path=self.path.absolute())  # not resolved: the suffix of a link says what it is

    def level_for(self, mpp: float) -> int:
        """The smallest level that still has at least the resolution asked for."""
        able = [i for i in range(len(self.shapes)) if self.level_mpp(i) <= mpp * 1.01]
        return able[-1] if able else 0

    def region(
        self, corner_um: tuple[float, float], size_um: tuple[float, float], *, level: int = 0
    ) -> tuple[np.ndarray, float]:
        """Read (h, w, 3) uint8 and its um per pixel: from x, y of the upper left corner, width and height.

        What lies outside the slide is cut off; a region wholly outside is refused. Of a TIFF only the tiles that the
        region touches are decoded; PNG and JPEG have no tiles and are decoded whole.
        """
        if not 0 <= level < len(self.shapes):
            message = f"level={level}; {self.path.name} has the levels 0 to {len(self.shapes) - 1}"
            raise InputError(message)
        mpp = self.level_mpp(level)
        low = np.floor(np.asarray(corner_um, float) / mpp + 1e-9).astype(int)
        high = low + np.maximum(1, np.round(np.asarray(size_um, float) / mpp).astype(int))
        low, high = np.maximum(low, 0), np.minimum(high, self.shapes[level][::-1])
        if (high <= low).any():
            message = f"the region at {tuple(corner_um)} um lies outside {self.path.name}, which is "
            raise InputError(message + f"{self.size_um[0]:.0f} x {self.size_um[1]:.0f} um")
        return self.window(slice(low[1], high[1]), slice(low[0], high[0]), level=level), mpp

    def window(self, rows: slice, columns: slice, *, level: int = 0) -> np.ndarray:
        """Read (h, w, 3) uint8: those rows and columns of a level, in its pixels, within the slide."""
        try:
            pixels = self._pixels(level, rows, columns)
        except InputError:
            raise
        except Exception as error:
            message = f"{self.path} cannot be read there ({told(error)}): is the file complete?"
            raise InputError(message) from error
        return as_rgb(pixels, self.path.name, smallest=1)

    def _pixels(self, level: int, rows: slice, columns: slice) -> np.ndarray:
        if self.path.suffix.lower() not in TIFF_SUFFIXES:
            from PIL import Image

            with Image.open(self.path) as image:
                check_picture(self.path, image)
                return np.asarray(image.convert("RGB").crop((columns.start, rows.start, columns.stop, rows.stop)))
        import tifffile
        import zarr

        series, within = self.series[level]
        with tifffile.TiffFile(self.path) as file:
            check_tiff(self.path, file)
            axes = file.series[series].axes
            store = file.series[series].aszarr(level=within)
            array = zarr.open_array(store, mode="r")
            keep = tuple({"Y": rows, "X": columns, "S": slice(None), "C": slice(None)}.get(a, 0) for a in axes)
            pixels = np.asarray(array[keep])
            store.close()
        return np.moveaxis(pixels, 0, -1) if axes.find("C") in range(axes.find("Y")) or axes[0] == "S" else pixels


def open_slide(path: str | Path, *, mpp: float | None = None) -> Slide:
    """Open a TIFF, OME-TIFF, SVS, PNG or JPEG of any size without reading its pixels.

    mpp : um per pixel, only where the file does not say; a file that disagrees is refused.

    Examples
    --------
    >>> slide = open_slide("slide.svs")                                            # doctest: +SKIP
    >>> tile, mpp = slide.region((1000, 2000), (112, 112), level=slide.level_for(0.5))  # doctest: +SKIP
    """
    path = check_image_path(path, mpp=mpp)
    try:
        found = _levels(path) if path.suffix.lower() in TIFF_SUFFIXES else _plain(path)
    except InputError:
        raise
    except Exception as error:
        message = f"{path} cannot be read as an image ({told(error)}): is the file complete?"
        raise InputError(message) from error
    own, shapes, series = found
    return Slide(path, settle_mpp(own, mpp, path.name), shapes, series)


def _plain(path: Path):
    from PIL import Image

    from stpath_core.io.images import plain_mpp

    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as image:
        check_picture(path, image)
        return plain_mpp(image), ((image.height, image.width),), ((0, 0),)


def _levels(path: Path):
    """Levels of the first series, and of later series that hold the same picture smaller (as some scanners write)."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        check_tiff(path, file)
        shapes, where = [], []
        for s, series in enumerate(file.series):
            for k, level in enumerate(series.levels):
                shape = tuple(level.shape[level.axes.find(a)] for a in "YX")
                if s and not _smaller(shape, shapes):
                    continue
                shapes.append(shape)
                where.append((s, k))
        return tiff_mpp(file), tuple(shapes), tuple(where)


def _smaller(shape: tuple[int, int], shapes: list[tuple[int, int]]) -> bool:
    """Whether a picture is smaller than the last level and has the proportions of the first."""
    proportion = (shape[0] / shapes[0][0]) / (shape[1] / shapes[0][1])
    return shape[0] < shapes[-1][0] and abs(proportion - 1) < _SAME_PICTURE
