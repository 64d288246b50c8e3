"""Read an H&E image and its micrometres per pixel. The scale is read or given, never guessed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from stpath_core.errors import InputError
from stpath_core.io.guard import check_picture, check_tiff, told

TIFF_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".btf")
PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE_SUFFIXES = TIFF_SUFFIXES + PLAIN_SUFFIXES
MICROSCOPE_MPP = (0.05, 5.0)  # um per pixel; a resolution tag outside is a screen's or printer's, not a microscope's
_TO_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


def read_image(path: str | Path, *, mpp: float | None = None) -> tuple[np.ndarray, float]:
    """Read PNG, JPEG, TIFF, OME-TIFF or SVS at full resolution.

    Returns the image, (H, W, 3) uint8, and its micrometres per pixel: the file's own where it has one, else `mpp`,
    else InputError. A file that disagrees with `mpp` by more than a tenth is refused too.

    Examples
    --------
    >>> image, mpp = read_image("slide.svs")                  # doctest: +SKIP
    >>> image, mpp = read_image("crop.png", mpp=0.25)         # doctest: +SKIP
    """
    path = check_image_path(path, mpp=mpp)
    try:
        pixels, own = _read_tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else _read_plain(path)
    except InputError:
        raise
    except Exception as error:
        message = f"{path} cannot be read as an image ({told(error)}): is the file complete?"
        raise InputError(message) from error
    scale = settle_mpp(own, mpp, path.name)
    return as_rgb(pixels, path.name), scale


def check_image_path(path: str | Path, *, mpp: float | None) -> Path:
    """See that a path leads to an image that can be read, and that a given scale is a microscope's."""
    path = Path(path)
    if not path.is_file():
        message = f"{path} does not exist; give the path of an image file"
        raise InputError(message)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        message = f"{path.name} is not an image that can be read; expected one of {', '.join(IMAGE_SUFFIXES)}"
        raise InputError(message)
    if mpp is not None and not MICROSCOPE_MPP[0] <= mpp <= MICROSCOPE_MPP[1]:
        message = f"mpp={mpp}; expected micrometres per pixel, {MICROSCOPE_MPP[0]} to {MICROSCOPE_MPP[1]} (40x is 0.25)"
        raise InputError(message)
    return path


def settle_mpp(own: float | None, given: float | None, name: str) -> float:
    """The file's own um per pixel, else the given one; InputError where they disagree or neither is there."""
    if own is not None and given is not None and abs(own / given - 1) > 0.1:
        message = f"{name} says {own:.4g} um per pixel, mpp={given} was given: leave mpp out, or correct the file"
        raise InputError(message)
    scale = own if own is not None else given
    if scale is None:
        message = f"{name} does not say how many micrometres a pixel is: pass mpp, about 0.25 for 40x and "
        message += "0.5 for 20x (`stpath run`: -p mpp=0.25, `stpath predict-nuclei`: --mpp 0.25)"
        raise InputError(message)
    return float(scale)


def is_image_file(path: Path) -> bool:
    """Whether it is a file whose name ends as an image's does. Hidden ones (`._a.png`, of macOS) are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def as_rgb(pixels: np.ndarray, name: str, *, smallest: int = 16) -> np.ndarray:
    """(H, W, 3) uint8 of an RGB or RGBA image; InputError for anything else, or below `smallest` pixels a side."""
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        message = f"{name} has shape {pixels.shape} and type {pixels.dtype}; expected an 8-bit RGB image (H, W, 3)"
        raise InputError(message)
    if min(pixels.shape[:2]) < smallest:
        message = f"{name} has {pixels.shape[0]} x {pixels.shape[1]} pixels; expected at least {smallest} x {smallest}"
        raise InputError(message)
    return np.ascontiguousarray(pixels[..., :3])


def _read_plain(path: Path) -> tuple[np.ndarray, float | None]:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # tissue is large
    with Image.open(path) as image:
        check_picture(path, image)
        mode, mpp = image.mode, plain_mpp(image)
        if mode not in ("RGB", "RGBA", "P"):
            message = f"{path.name} has colour mode {mode}; expected an 8-bit RGB image"
            raise InputError(message)
        pixels = np.asarray(image.convert("RGB"))
    return pixels, mpp


def plain_mpp(image) -> float | None:
    """um per pixel from the resolution that a PNG or JPEG names, where it is a microscope's."""
    dpi = image.info.get("dpi")
    return _plausible(25_400 / float(dpi[0])) if dpi and float(dpi[0]) > 0 else None


def _read_tiff(path: Path) -> tuple[np.ndarray, float | None]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        check_tiff(path, file)
        series = file.series[0]
        pixels, axes = series.asarray(), series.axes
        mpp = tiff_mpp(file)
    for axis in "TZQI":  # singleton axes that some writers add
        if axis in axes and pixels.shape[axes.index(axis)] == 1:
            pixels, axes = pixels.squeeze(axes.index(axis)), axes.replace(axis, "")
    if axes in ("SYX", "CYX"):
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels, mpp


def tiff_mpp(file) -> float | None:
    """Pixel size from OME-XML, from a slide scanner's description, or from the resolution tags, in this order."""
    if file.ome_metadata:
        pixels = next((e for e in ElementTree.fromstring(file.ome_metadata).iter() if e.tag.endswith("}Pixels")), None)
        size = None if pixels is None else pixels.get("PhysicalSizeX")
        if size is not None:
            return _plausible(float(size) * _TO_UM.get(pixels.get("PhysicalSizeXUnit", "µm"), np.nan))
    page = file.pages[0]
    found = re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description or "")
    if found:
        return _plausible(float(found.group(1)))
    resolution, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
    if resolution is None or unit is None or int(unit.value) not in (2, 3) or not resolution.value[0]:
        return None
    per_unit = resolution.value[0] / resolution.value[1]
    return _plausible((25_400 if int(unit.value) == 2 else 10_000) / per_unit)


def _plausible(mpp: float) -> float | None:
    return mpp if MICROSCOPE_MPP[0] <= mpp <= MICROSCOPE_MPP[1] else None
