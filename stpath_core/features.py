"""Features of H&E tiles that need no network: about a hundred statistics of stain, texture and dark blobs.

Cheap, deterministic and the same on every machine; the default where no pretrained encoder is at hand. They know
nothing of glands and are not invariant to stain: what a batch does to a stain, it does to them. Nuclei they know as
blobs of hematoxylin, and touching ones as one.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import fft
from scipy import ndimage as ndi

from stpath_core.errors import InputError
from stpath_core.stain import optical_density, unmix

CHANNELS = ("hematoxylin", "eosin", "density")
_QUANTILES = (5, 25, 50, 75, 95)
_SCALES_UM = (0.75, 1.5, 3.0, 6.0, 12.0)  # SD of the windows whose differences are the bands
_LAGS_UM = (1.0, 2.0, 4.0, 8.0, 16.0)
_WAVES = 12  # rings of the power spectrum, between 2 um and 64 um of wavelength
_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # of hematoxylin
_GLASS = (0.04, 0.08)  # optical density below which a pixel is bare glass
_CELLS = 4  # the tile is cut in 4 x 4 for what varies across it
_AT_ONCE = 16  # tiles
_SHAPES = ("log area", "log aspect", "hematoxylin", "unevenness", "eosin around", "filled")  # of each blob
_SHARES = (15, 50, 85)  # quantiles of those over the blobs of a tile
_SMALLEST_UM2 = 8.0  # what is smaller is no nucleus
_COARSEST = 1.5  # um per pixel, above which a nucleus has too few pixels for a shape: its columns are 0


def tile_features(tiles: np.ndarray, *, mpp: float) -> np.ndarray:
    """Statistics of H&E tiles: (N, H, W, 3) uint8 at `mpp` um per pixel -> (N, F) float32, see `feature_names`.

    Of hematoxylin, eosin (Ruifrok and Johnston 2001, fixed axes) and total density: moments and quantiles; energy and
    correlation in five bands of scale; power by wavelength; autocorrelation by distance; direction; unevenness over
    the tile; share of nuclei-dark and of bare pixels; number, size, shape and stain of dark blobs. Lengths are in um,
    so that mpp may differ between data sets.

    Examples
    --------
    >>> tile_features(np.full((2, 64, 64, 3), 230, np.uint8), mpp=1.0).shape
    (2, 118)
    """
    tiles = np.asarray(tiles)
    if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8 or min(tiles.shape[1:3]) < 32:
        message = f"tiles have shape {tiles.shape} and type {tiles.dtype}; expected (N, H, W, 3) uint8 of 32 px or more"
        raise InputError(message)
    if not 0.1 <= mpp <= 4:
        message = f"mpp={mpp}; give micrometres per pixel between 0.1 and 4"
        raise InputError(message)
    parts = [_features(tiles[i : i + _AT_ONCE], mpp) for i in range(0, len(tiles), _AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros((0, len(feature_names())), np.float32)


def feature_names() -> list[str]:
    """What each column of `tile_features` is."""
    two = CHANNELS[:2]
    names = [f"{c} {what}" for c in CHANNELS for what in ("mean", "SD", "skew", *(f"q{q}" for q in _QUANTILES))]
    names += [f"{c} band {s:g} um" for c in two for s in _SCALES_UM]
    names += [f"correlation of stains, band {s:g} um" for s in _SCALES_UM]
    names += [f"{c} wave {i}" for c in two for i in range(_WAVES)]
    names += [f"{c} autocorrelation {lag:g} um" for c in two for lag in _LAGS_UM]
    names += [f"{c} {what}" for c in two for what in ("gradient", "coherence")]
    names += [f"{c} {what}" for c in two for what in ("cells SD", "cells min", "cells q25", "cells q75", "cells max")]
    names += [f"hematoxylin above {level}" for level in _LEVELS] + [f"density below {level}" for level in _GLASS]
    names += ["dark spots", *(f"blobs {shape} q{q}" for shape in _SHAPES for q in _SHARES)]
    return [*names, "blobs", "blobs small and round", "blobs long", "blobs large"]


def _features(tiles: np.ndarray, mpp: float) -> np.ndarray:
    od = optical_density(tiles)  # (n, h, w, 3)
    amounts = unmix(od)
    h, e, density = amounts[..., 0], amounts[..., 1], od.mean(-1)
    blurred = [[x, *(_blur(x, s / mpp) for s in _SCALES_UM)] for x in (h, e)]
    bands = [[fine - coarse for fine, coarse in pairwise(levels)] for levels in blurred]
    columns = [c for x in (h, e, density) for c in _moments(x)]
    columns += [band.std((1, 2)) for channel in bands for band in channel]
    columns += [_correlation(a, b) for a, b in zip(*bands, strict=True)]
    for x in (h, e):
        columns += _spectrum(x, mpp)
    columns += [c for x in (h, e) for c in _autocorrelation(x, mpp)]
    columns += [c for levels in blurred for c in _direction(levels[1])]
    columns += [c for x in (h, e) for c in _unevenness(x)]
    columns += [(h > level).mean((1, 2)) for level in _LEVELS] + [(density < level).mean((1, 2)) for level in _GLASS]
    columns.append(_dark_spots(blurred[0], mpp))
    columns += _blobs(blurred[0], blurred[1][3], h, mpp)
    return np.stack(columns, axis=1).astype(np.float32)


def _blur(x: np.ndarray, sd_px: float) -> np.ndarray:
    """Mean over a square window of the given standard deviation: its cost does not grow with its size."""
    size = max(2 * round((12**0.5 * sd_px - 1) / 2) + 1, 3)
    return ndi.uniform_filter(x, (0, size, size), mode="reflect")


def _moments(x: np.ndarray) -> list[np.ndarray]:
    """Mean, SD, skew and quantiles per tile; quantiles from every fourth pixel."""
    mean, sd = x.mean((1, 2)), x.std((1, 2))
    centred = x - mean[:, None, None]
    skew = (centred * centred * centred).mean((1, 2)) / np.maximum(sd, 1e-3) ** 3
    quantiles = np.percentile(x[:, ::2, ::2].reshape(len(x), -1), _QUANTILES, axis=1)
    return [mean, sd, skew, *quantiles]


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson per tile; 0 where one of them is flat."""
    return (a * b).mean((1, 2)) / np.maximum(a.std((1, 2)) * b.std((1, 2)), 1e-6)


def _spectrum(x: np.ndarray, mpp: float) -> list[np.ndarray]:
    """log10 power in rings of equal width in log wavelength; rings that the tile cannot hold are 0."""
    height, width = x.shape[1:]
    power = np.abs(fft.rfft2(x - x.mean((1, 2), keepdims=True))) ** 2 / (height * width)
    frequency = np.hypot(fft.fftfreq(height, mpp)[:, None], fft.rfftfreq(width, mpp)[None])
    edges = np.geomspace(1 / 64, 1 / 2, _WAVES + 1)
    ring = np.digitize(frequency.ravel(), edges) - 1
    ring[(ring < 0) | (ring >= _WAVES)] = _WAVES
    n = np.bincount(ring, minlength=_WAVES + 1)[:_WAVES]
    each = [np.bincount(ring, weights=p.ravel(), minlength=_WAVES + 1)[:_WAVES] for p in power]
    return list(np.where(n > 0, np.log10(np.stack(each) / np.maximum(n, 1) + 1e-4), 0).T)


def _autocorrelation(x: np.ndarray, mpp: float) -> list[np.ndarray]:
    """Correlation of a tile with itself moved along rows and along columns, mean of the two."""
    out = []
    for lag_um in _LAGS_UM:
        lag = max(1, round(lag_um / mpp))
        both = _correlation(*_centred(x[:, lag:], x[:, :-lag])), _correlation(*_centred(x[..., lag:], x[..., :-lag]))
        out.append(0.5 * (both[0] + both[1]))
    return out


def _centred(*parts: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(part - part.mean((1, 2), keepdims=True) for part in parts)


def _direction(x: np.ndarray) -> list[np.ndarray]:
    """Mean gradient, and how far the tile's gradients share a direction: 0 none, 1 all (structure tensor)."""
    gy, gx = np.gradient(x, axis=(1, 2))
    a, b, c = ((p * q).mean((1, 2)) for p, q in ((gx, gx), (gy, gy), (gx, gy)))
    return [np.hypot(gx, gy).mean((1, 2)), np.hypot(a - b, 2 * c) / np.maximum(a + b, 1e-9)]


def _unevenness(x: np.ndarray) -> list[np.ndarray]:
    """Means over 4 x 4 cells of the tile: their SD, smallest, quartiles, largest."""
    n, height, width = x.shape
    rows, columns = height // _CELLS, width // _CELLS
    cut = x[:, : rows * _CELLS, : columns * _CELLS].reshape(n, _CELLS, rows, _CELLS, columns)
    means = np.sort(cut.mean((2, 4)).reshape(n, -1), axis=1)
    return [means.std(1), means[:, 0], *np.percentile(means, (25, 75), axis=1), means[:, -1]]


def _dark_spots(blurred: list[np.ndarray], mpp: float) -> np.ndarray:
    """Spots of hematoxylin the size of a nucleus, per 1,000 um^2: maxima of the band between 1.5 and 6 um."""
    band = blurred[2] - blurred[4]
    size = max(3, 2 * round(2.5 / mpp) + 1)
    peaks = (band == ndi.maximum_filter(band, (1, size, size))) & (band > 0.05)
    return 1e3 * peaks.sum((1, 2)) / (band.shape[1] * band.shape[2] * mpp**2)


def _blobs(blurred: list[np.ndarray], around: np.ndarray, h: np.ndarray, mpp: float) -> list[np.ndarray]:
    """Quantiles of what dark blobs look like, then blobs per 1,000 um^2: all, and of three kinds; 0 where none is seen.

    A blob is connected, darker than half the tile's darkest tenth and than its surroundings. blurred : levels of
    hematoxylin h; around : eosin in a window wider than a nucleus.
    """
    n, height, width = h.shape
    out = np.zeros((len(_SHAPES) * len(_SHARES) + 4, n))
    if mpp > _COARSEST:
        return list(out)
    fine, surroundings = blurred[1], blurred[3]
    dark = 0.5 * np.percentile(fine[:, ::2, ::2].reshape(n, -1), 90, axis=1)[:, None, None]
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndi.generate_binary_structure(2, 1)
    blob, found = ndi.label((fine > dark) & (fine > 1.05 * surroundings), structure=in_plane)
    at = np.flatnonzero(blob)
    label = blob.ravel()[at] - 1
    tile, y, x = np.unravel_index(at, h.shape)
    size = np.bincount(label, minlength=found)
    shape = _shapes(label, size, y, x, h.ravel()[at], around.ravel()[at], mpp)  # (found, 6)
    large = size * mpp**2 >= _SMALLEST_UM2
    home = np.zeros(found, int)
    home[label] = tile  # a blob lies in one tile
    per_area = 1e3 / (height * width * mpp**2)
    for k in range(n):
        mine = shape[large & (home == k)]
        if len(mine):
            area, aspect = np.exp(mine[:, :2]).T
            out[:-4, k] = np.percentile(mine, _SHARES, axis=0).T.ravel()
            kinds = len(mine), ((area < 35) & (aspect < 1.4)).sum(), (aspect > 2.2).sum(), (area > 60).sum()
            out[-4:, k] = per_area * np.array(kinds)
    return list(out)


def _shapes(label, size, y, x, h, eosin, mpp: float) -> np.ndarray:
    """(blobs, 6) as `_SHAPES`, by the moments of each blob's pixels: label, y, x, h, eosin (pixels,), size (blobs,)."""

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, weights=values, minlength=len(size)) / size

    my, mx, mh = mean(y), mean(x), mean(h)
    yy, xx, yx = mean(y * y) - my**2 + 1 / 12, mean(x * x) - mx**2 + 1 / 12, mean(y * x) - my * mx
    apart = np.hypot((yy - xx) / 2, yx)
    long, short = (yy + xx) / 2 + apart, np.maximum((yy + xx) / 2 - apart, 1e-3)
    uneven = np.sqrt(np.maximum(mean(h * h) - mh**2, 0)) / np.maximum(mh, 0.05)
    filled = size / (4 * np.pi * np.sqrt(long * short))  # 1 for an ellipse
    columns = np.log(size * mpp**2), np.log(long / short) / 2, mh, uneven, mean(eosin), np.log(np.maximum(filled, 0.05))
    return np.stack(columns, axis=1)
