"""Spots with their patches of H&E: micrometres in, pixels inside, features of each spot and of its surroundings.

Features are kept in the layout of CLAM and TRIDENT, one HDF5 file per section, so that those of another encoder drop
in: `features` (n, d), and `coords` (n, 2) whose patches are matched with the spots by their middles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from stpath_core.errors import InputError
from stpath_core.expression import patient_folds
from stpath_core.features import tile_features
from stpath_core.io.features import Features, read_features, write_features
from stpath_core.stain import optical_density

PATCH_UM = 112.0  # 224 px at 0.5 um/px: one spot of 100 um and its rim
WHITE = 255  # what lies outside the image is glass
ENCODER = "tile_features"


def cut_patches(image: np.ndarray, centres_px: np.ndarray, *, patch_px: int) -> np.ndarray:
    """Square patches around spots: image (H, W, 3) uint8, centres_px (n, 2) x, y -> (n, patch_px, patch_px, 3) uint8.

    What reaches over the border of the image is white. A centre outside the image is refused: the frame is wrong.
    """
    check_spots(centres_px, image.shape)
    return cut_at(image, first_pixels(centres_px, patch_px=patch_px), patch_px=patch_px)


def check_spots(centres_px: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse spots (n, 2; x, y) outside an image (H, W, ...)."""
    height, width = shape[:2]
    xy = np.asarray(centres_px, float)
    outside = ~((xy >= 0) & (xy <= (width, height))).all(1)  # a place that is no number is outside, too
    if outside.any():
        message = f"{int(outside.sum())} of {len(xy)} spots lie outside the image of {width} x {height} px, first "
        message += f"({xy[outside][0, 0]:.0f}, {xy[outside][0, 1]:.0f}): are x and y swapped, or is it another image?"
        raise InputError(message)


def first_pixels(centres_px: np.ndarray, *, patch_px: int) -> np.ndarray:
    """(n, 2) x, y of the upper left pixel of each patch; outside the image where the patch reaches over its border."""
    return np.round(np.asarray(centres_px, float) - patch_px / 2).astype(np.int64)


def cut_at(image: np.ndarray, first: np.ndarray, *, patch_px: int) -> np.ndarray:
    """(n, patch_px, patch_px, 3) uint8 from (H, W, 3) and the upper left pixels (n, 2; x, y); white outside."""
    first, (height, width) = np.asarray(first).reshape(-1, 2), image.shape[:2]
    inside = ((first >= 0) & (first <= (width - patch_px, height - patch_px))).all(1)
    if inside.all() and len(first):  # most sections: a window starts at every pixel, and these are read at once
        windows = np.lib.stride_tricks.sliding_window_view(image, (patch_px, patch_px, 3))
        return np.ascontiguousarray(windows[first[:, 1], first[:, 0], 0], np.uint8)
    out = np.empty((len(first), patch_px, patch_px, 3), np.uint8)
    for patch, (x, y) in zip(out, first.tolist(), strict=True):
        top, left = max(y, 0), max(x, 0)
        seen = image[top : y + patch_px, left : x + patch_px]
        if seen.shape != patch.shape:
            patch[:] = WHITE
        patch[top - y : top - y + seen.shape[0], left - x : left - x + seen.shape[1]] = seen
    return out


def patch_corners(centres_px: np.ndarray, *, patch_px: int) -> np.ndarray:
    """(n, 2) upper left corners as CLAM keeps them, whole and not negative: a patch over the border is moved inside by
    name only, so that its middle stays within half a patch of the spot."""
    return first_pixels(centres_px, patch_px=patch_px).clip(0)


def section_features(
    image: np.ndarray,
    centres_um: np.ndarray,
    *,
    mpp: float,
    patch_um: float = PATCH_UM,
    encode: Callable[[np.ndarray], np.ndarray] | None = None,
    at_once: int = 64,
) -> Features:
    """One row of features per spot of a section: image (H, W, 3) uint8 at `mpp`, centres_um (n, 2) x, y.

    encode : (b, patch_px, patch_px, 3) uint8 -> (b, d); None: `features.tile_features`.
    """
    patch_px = patch_side(patch_um, mpp)
    centres_px = np.asarray(centres_um, float) / mpp
    encode = encode or (lambda tiles: tile_features(tiles, mpp=mpp))
    rows = [
        encode(cut_patches(image, centres_px[i : i + at_once], patch_px=patch_px))
        for i in range(0, len(centres_px), at_once)
    ]
    return Features(
        features=np.concatenate(rows).astype(np.float32),
        coords=patch_corners(centres_px, patch_px=patch_px),
        patch_px=patch_px,
        mpp=mpp,
    )


def patch_side(patch_um: float, mpp: float) -> int:
    """Pixels of a side of a patch of so many um; InputError below the 32 that features need."""
    patch_px = round(patch_um / mpp)
    if patch_px < 32:
        message = f"a patch of {patch_um:g} um has {patch_px} px at {mpp:g} um/px; at least 32 are needed: a larger "
        raise InputError(message + "patch_um, or an image of higher resolution")
    return patch_px


def kept_features(path: str | Path, compute: Callable[[], Features], *, encoder: str = ENCODER) -> Features:
    """The features in a file, or computed now and kept there."""
    path = Path(path)
    if path.is_file():
        return read_features(path)
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_features(path, found.features, found.coords, patch_px=found.patch_px, mpp=found.mpp, encoder=encoder)
    return found


def features_of_spots(found: Features, centres_um: np.ndarray, *, where: str = "the features") -> np.ndarray:
    """(n, d) of the patch whose middle lies nearest each spot; refused where none lies within half a patch."""
    from scipy.spatial import cKDTree

    away, row = cKDTree(found.centres_um()).query(np.asarray(centres_um, float))
    reach = 0.51 * found.patch_px * found.mpp * 2**0.5
    lost = int((away > reach).sum())
    if lost:
        message = f"{where}: {lost} of {len(away)} spots have no patch within {reach:.0f} um of them: are the patches "
        raise InputError(message + "of this section, centred on its spots, and is their mpp right?")
    return found.features[row]


def density_features(
    image: np.ndarray, centres_um: np.ndarray, *, mpp: float, patch_um: float = PATCH_UM
) -> np.ndarray:
    """The three numbers that every model must beat: mean optical density of red, green and blue, (n, 3)."""
    patches = cut_patches(image, np.asarray(centres_um, float) / mpp, patch_px=round(patch_um / mpp))
    return np.stack([optical_density(patch).mean((0, 1)) for patch in patches]).astype(np.float32)


@dataclass(frozen=True)
class SpotTable:
    """Spots ready for a model. features (n, d), density (n, 3), xy_um (n, 2), target (n, g), patient, section (n,).

    shares : (n, C) proportions of cell types that a model may learn from (deconvolved, of training spots), or None.
    """

    features: np.ndarray
    density: np.ndarray
    xy_um: np.ndarray
    target: np.ndarray
    patient: np.ndarray
    section: np.ndarray
    shares: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, chosen: np.ndarray) -> SpotTable:
        """Those spots alone; chosen : bool or numbers of rows."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: None if v is None else v[chosen] for name, v in given.items()})

    def inner_folds(self, most: int = 3) -> list[np.ndarray]:
        """Held-out rows of each inner fold, (n,) bool: up to `most` folds of patients; of sections where there is one
        patient; of the two halves of a single section."""
        left = np.where(self.xy_um[:, 0] < np.median(self.xy_um[:, 0]), "left", "right")
        unit = next((u for u in (self.patient, self.section) if len(np.unique(u)) > 1), left)
        return patient_folds(unit, min(most, len(np.unique(unit))))

    def sections(self) -> list[np.ndarray]:
        """Rows of each section."""
        return [np.flatnonzero(self.section == name) for name in dict.fromkeys(self.section)]


def centred(values: np.ndarray, section: np.ndarray, *, scaled: bool = False) -> np.ndarray:
    """Values (n, d) minus the mean of their section, and divided by its SD: what a patient or a stain adds is gone."""
    out = np.array(values, np.float32)
    for name in np.unique(section):
        rows = section == name
        out[rows] -= out[rows].mean(0)
        if scaled:
            out[rows] /= out[rows].std(0) + 1e-6
    return out


def neighbour_mean(values: np.ndarray, xy_um: np.ndarray, section: np.ndarray, *, reach: float = 1.6) -> np.ndarray:
    """(n, d) mean over the spots within `reach` pitches of each spot in its section, itself left out.

    1.6 pitches hold the eight neighbours of a square array and the six of a staggered one. Alone: its own values.
    """
    return _spread(values, xy_um, section, reach=reach, weight=lambda away: (away > 0).astype(float))


def neighbourhood_mean(values: np.ndarray, xy_um: np.ndarray, section: np.ndarray, *, reach: float = 1.6) -> np.ndarray:
    """(n, d) mean over the same spots and the spot itself: the 3 x 3 neighbourhood of a square array."""
    return _spread(values, xy_um, section, reach=reach, weight=np.ones_like)


def smoothed(values: np.ndarray, xy_um: np.ndarray, section: np.ndarray, *, pitches: float) -> np.ndarray:
    """Predictions (n, g) averaged over their neighbourhood in the section by a Gaussian of SD `pitches`; 0: not at all.

    For predictions only. Whoever smooths what was *measured* on the test side makes every method look better.
    """
    if not pitches:
        return np.asarray(values)
    return _spread(values, xy_um, section, reach=4 * pitches, weight=lambda away: np.exp(-0.5 * (away / pitches) ** 2))


def _spread(
    values: np.ndarray,
    xy_um: np.ndarray,
    section: np.ndarray,
    *,
    reach: float,
    weight: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Weighted means over neighbours; distances in pitches, the median distance to the nearest spot of the section."""
    from scipy.sparse import coo_matrix
    from scipy.spatial import cKDTree

    out = np.array(values, np.float32)
    for name in np.unique(section):
        rows = np.flatnonzero(section == name)
        if len(rows) < 2:
            continue
        tree = cKDTree(xy_um[rows])
        pitch = np.median(tree.query(xy_um[rows], k=2)[0][:, 1])
        pairs = tree.query_pairs(reach * pitch, output_type="ndarray")
        i, j = np.r_[pairs, pairs[:, ::-1], np.stack([np.arange(len(rows))] * 2, 1)].T
        w = weight(np.linalg.norm(xy_um[rows][i] - xy_um[rows][j], axis=1) / pitch)
        near = coo_matrix((w, (i, j)), shape=(len(rows), len(rows))).tocsr()
        total = np.asarray(near.sum(1)).ravel()
        known = total > 0
        out[rows[known]] = (near @ out[rows])[known] / total[known, None]
    return out
