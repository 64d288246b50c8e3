"""Stain: light to optical density, density to hematoxylin and eosin, and one colour for all laboratories."""

from __future__ import annotations

import numpy as np

from stpath_core.errors import InputError

# Hematoxylin, eosin, residual in optical density of R, G, B (Ruifrok and Johnston 2001), rows of unit length.
STAIN_AXES = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
STAIN_AXES = STAIN_AXES / np.linalg.norm(STAIN_AXES, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(STAIN_AXES).astype(np.float32)
_DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)  # of a grey level, white is 255

# Optical density (natural logarithm; R, G, B) of tissue in the common stain: near the middle of what laboratories make.
MEDIAN, SPREAD = np.array([0.35, 0.60, 0.35]), np.array([0.28, 0.35, 0.24])
_GLASS = 220  # grey level of green, which both stains absorb, above which a pixel is bare glass
_ENOUGH = 1000  # pixels of tissue that are needed to know a stain
_STAINED = 0.15  # optical density (base 10) in every channel, above which a pixel says what the stains look like
_FULL = 99  # percentile of an amount of stain that stands for "as dark as it gets"
AMOUNTS = np.array([0.7, 0.5])  # hematoxylin and eosin of that percentile in the common stain, optical density


def optical_density(image: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB -> (..., 3) float32 optical density, base 10, 0 for white glass (Beer-Lambert)."""
    image = np.asarray(image)
    if image.ndim < 2 or image.shape[-1] != 3 or image.dtype != np.uint8:
        message = f"image has shape {image.shape} and dtype {image.dtype}; expected (..., 3) uint8 RGB"
        raise InputError(message + ": see io.read_image")
    return _DENSITY[image]


def unmix(density: np.ndarray) -> np.ndarray:
    """Optical density (..., 3) -> amounts of hematoxylin, eosin and residual (..., 3), by colour deconvolution."""
    return density @ _UNMIX


def standardise_stain(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 H&E -> the same, its tissue brought to one median and spread of optical density per channel.

    After Reinhard et al. 2001 (IEEE CG&A 21:34), in optical density, where stains add up (Beer-Lambert). Bare glass
    has no say; an image with hardly any tissue comes back as it is. The contrast changes at most threefold, so that
    an image of one tone is not blown up into noise.
    """
    step = stain_step(image.shape)
    return recoloured(image, stain_tables(tissue_levels(image[::step, ::step])))


def stain_step(shape: tuple[int, ...]) -> int:
    """Every how many pixels an image of (H, W, ...) is looked at: two million of them know a stain."""
    return max(1, int((shape[0] * shape[1] / 2e6) ** 0.5))


def tissue_levels(pixels: np.ndarray) -> np.ndarray:
    """(3, 256) how many pixels of tissue, of (..., 3) uint8, have each grey level. Counts of tiles add up."""
    tissue = pixels[pixels[..., 1] < _GLASS]  # (n, 3)
    return np.stack([np.bincount(tissue[:, channel], minlength=256) for channel in range(3)])


def stain_tables(levels: np.ndarray) -> np.ndarray | None:
    """(3, 256) uint8: the common stain of each grey level, from `tissue_levels`; None where there is hardly tissue."""
    n = levels[0].sum()
    if n < _ENOUGH:
        return None
    density = -np.log((np.arange(256) + 1) / 256)
    tables = np.empty((3, 256), np.uint8)
    for channel, count in enumerate(levels):
        median = density[np.searchsorted(np.cumsum(count), n / 2)]
        mean = count @ density / n
        spread = np.sqrt(count @ (density - mean) ** 2 / n)
        gain = np.clip(SPREAD[channel] / max(spread, 1e-6), 1 / 3, 3)
        wanted = MEDIAN[channel] + gain * (density - median)
        tables[channel] = np.clip(256 * np.exp(-wanted) - 1, 0, 255).round()
    return tables


def recoloured(image: np.ndarray, tables: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8 through `stain_tables`; None: as it is."""
    if tables is None:
        return image
    out = np.empty_like(image)
    for channel in range(3):
        out[..., channel] = tables[channel][image[..., channel]]
    return out


def stained_pixels(image: np.ndarray) -> int:
    """How many pixels of an (H, W, 3) uint8 image are not bare glass."""
    return int(np.count_nonzero(image[..., 1] < _GLASS))


def stain_vectors(image: np.ndarray) -> np.ndarray:
    """(2, 3) unit colour vectors of hematoxylin and eosin that this image itself shows (Macenko et al. 2009).

    Raises InputError where fewer than a thousand pixels are stained.
    """
    density = optical_density(image).reshape(-1, 3)
    return _vectors(density[(density > _STAINED).all(1)])


def _vectors(stained: np.ndarray) -> np.ndarray:
    if len(stained) < _ENOUGH:
        message = f"{len(stained)} pixels are stained; {_ENOUGH} are needed to know the colour of two stains"
        raise InputError(message)
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, [2, 1]]
    plane *= np.where(plane.sum(0) < 0, -1, 1)
    angle = np.arctan2(*(stained @ plane).T[::-1])
    two = np.stack([plane @ [np.cos(a), np.sin(a)] for a in np.percentile(angle, [1, 99])])
    two = two[np.argsort(-two[:, 0])]  # hematoxylin takes more red out
    return two / np.linalg.norm(two, axis=1, keepdims=True)


def normalise_macenko(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 H&E -> the same tissue in stains of one colour and one strength (Macenko et al. 2009, ISBI).

    The two stain vectors of the image are taken for the fixed axes of Ruifrok and Johnston, and each stain's 99th
    percentile for one amount. Give a whole slide, or all tiles of it in one column: what a slide holds more of than
    another stays, what its laboratory did goes. An image with hardly any tissue comes back as it is.
    """
    density = optical_density(image).reshape(-1, 3)
    stained = (density > _STAINED).all(1)
    if stained.sum() < _ENOUGH:
        return image
    amounts = density @ np.linalg.pinv(_vectors(density[stained])).astype(np.float32)  # (pixels, 2)
    full = np.percentile(amounts[stained], _FULL, axis=0)
    wanted = (amounts * (AMOUNTS / np.maximum(full, 1e-3))).astype(np.float32) @ STAIN_AXES[:2].astype(np.float32)
    return np.clip(256 * 10**-wanted - 1, 0, 255).round().astype(np.uint8).reshape(image.shape)
