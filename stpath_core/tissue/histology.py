"""Paint a grown section as H&E: two stain densities per pixel, then Beer-Lambert, then the optics of a scanner.

Background (fibres, cytoplasm, lumens, fat) is painted strip by strip from the grids of the layout; nuclei, vacuoles and
red cells are stamped. Densities are shares of the stain's strength; `stains.Stain` turns them into colours.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage as ndi

from stpath_core.errors import InputError
from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.background import paint_background
from stpath_core.tissue.stains import Stain, patient_stain
from stpath_core.tissue.stamps import stamp_bodies, stamp_nuclei
from stpath_core.tissue.texture import STRIP_PX, TILE_PX, band, window


def render(arch: Architecture, *, mpp: float = 0.5, stain: Stain | None = None, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 H&E image of a section at `mpp` micrometres per pixel.

    stain : colours and optics; None takes the patient's own. seed : texture, focus and noise (not the tissue).
    """
    if not 0.1 <= mpp <= 4:
        msg = f"mpp={mpp} cannot be rendered; give micrometres per pixel between 0.1 and 4"
        raise InputError(msg)
    rng = np.random.default_rng([seed, 21])
    stain = stain or patient_stain(arch.organ, arch.patient)
    width, height = (round(s / mpp) for s in arch.size_um)
    h, e = paint_background(rng, arch, mpp=mpp, shape=(height, width))
    stamp_bodies(rng, arch, h, e, mpp=mpp)
    stamp_nuclei(rng, arch, h, e, mpp=mpp)
    _focus(rng, (h, e), stain, mpp=mpp)
    return _expose(rng, h, e, stain, mpp=mpp)


def _focus(rng: np.random.Generator, densities: tuple[np.ndarray, ...], stain: Stain, *, mpp: float) -> None:
    """Optics in place: a point spread, then the scanner's sharpening, which loses against defocus in some places."""
    shape = densities[0].shape
    soft = band(90.0, 2.0, int(rng.integers(8)))  # one texel is 2 um
    rows, columns = ((np.arange(n) * (mpp / 2)).astype(int) for n in shape)
    defocus = np.clip(window(soft, rows, columns) * 0.45 - stain.sharpening, -1.5 * stain.sharpening, 0.9)
    for density in densities:
        sharp = ndi.gaussian_filter(density, max(stain.blur_um / mpp, 0.25), truncate=2.5)
        wide = ndi.gaussian_filter(sharp, max(0.45 / mpp, 0.3), truncate=2.5)
        np.copyto(density, np.maximum(sharp + defocus * (wide - sharp), 0))


def _expose(rng: np.random.Generator, h: np.ndarray, e: np.ndarray, stain: Stain, *, mpp: float) -> np.ndarray:
    """Beer-Lambert: intensity = white * 10^-(H h + E e), with sensor noise that the three colours share in part."""
    grain = [band(0.3, mpp, 5 + k) for k in range(4)]
    shift = rng.integers(0, TILE_PX, (4, 2))
    columns = np.arange(h.shape[1])
    image = np.empty((*h.shape, 3), np.uint8)
    for top in range(0, h.shape[0], STRIP_PX):
        rows = np.arange(top, min(top + STRIP_PX, h.shape[0]))
        noise = [window(grain[k], rows, columns, shift=shift[k]) for k in range(4)]
        for channel in range(3):
            per_h = math.log(10) * stain.h_strength * stain.hematoxylin[channel]
            per_e = math.log(10) * stain.e_strength * stain.eosin[channel]
            value = stain.white[channel] * np.exp(-per_h * h[rows] - per_e * e[rows])
            value += stain.noise * (0.8 * noise[0] + 0.6 * noise[1 + channel])
            image[rows, :, channel] = np.clip(value, 0, 255)
    return image


def instance_mask(
    polygons_um: np.ndarray, *, mpp: float, shape: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """(H, W) int32: pixel centres inside polygon i carry i + 1, 0 is background; where polygons overlap the first wins.

    polygons_um : (N, V, 2) x, y in um. corner : row and column of the first pixel; a window of an image is, bit for
    bit, what the whole image has there. Even-odd filling along pixel rows, all polygons at once.
    """
    height, width = shape
    top, left = corner
    mask = np.zeros(height * width, np.int32)
    if len(polygons_um) == 0:
        return mask.reshape(shape)
    px = np.asarray(polygons_um, np.float64) / mpp - 0.5  # pixel centres at integers
    n, v = px.shape[:2]
    x0, y0 = px[..., 0].ravel(), px[..., 1].ravel()
    after = np.roll(px, -1, axis=1)
    x1, y1 = after[..., 0].ravel(), after[..., 1].ravel()
    owner = np.repeat(np.arange(n), v)
    # every pixel row that an edge crosses, half-open so that a shared vertex counts once
    first = np.ceil(np.minimum(y0, y1)).astype(np.int64).clip(top, top + height)
    count = (np.ceil(np.maximum(y0, y1)).astype(np.int64).clip(top, top + height) - first).clip(0)
    edge = np.repeat(np.arange(n * v), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (row - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    order = np.lexsort((x, row, owner[edge]))
    x, row, owner = x[order].reshape(-1, 2), row[order][::2], owner[edge][order][::2]
    # crossings pair up into spans of pixels
    start = np.ceil(x[:, 0]).astype(np.int64).clip(left, left + width)
    length = (np.ceil(x[:, 1]).astype(np.int64).clip(left, left + width) - start).clip(0)
    before = np.cumsum(length) - length
    pixel = np.repeat((row - top) * width + start - left - before, length) + np.arange(length.sum())
    mask[pixel[::-1]] = np.repeat(owner + 1, length)[::-1]  # written last to first: the first polygon stays
    return mask.reshape(shape).astype(np.int32)
