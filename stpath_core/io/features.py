"""Features of patches as CLAM and TRIDENT keep them: HDF5 with `features` (n, d) and `coords` (n, 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stpath_core.errors import InputError
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import check_hdf5, reads, told


@dataclass(frozen=True, kw_only=True)
class Features:
    """features : (n, d) float32, one row per patch. coords : (n, 2) int64 x, y of the upper left corners in pixels of
    level 0. patch_px : side of a patch in pixels of level 0; None: the file does not say. mpp : um per pixel of
    level 0, or None. attrs : what else stands beside `coords`.
    """

    features: np.ndarray
    coords: np.ndarray
    patch_px: int | None = None
    mpp: float | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    def centres_um(self) -> np.ndarray:
        """(n, 2) x, y of the middles of the patches."""
        absent = [name for name in ("patch_px", "mpp") if getattr(self, name) is None]
        if absent:
            message = f"the features do not say {' and '.join(absent)}: read them with read_features(path, patch_px=, "
            raise InputError(message + "mpp=)")
        return (self.coords + self.patch_px / 2) * self.mpp


@reads
def read_features(path: str | Path, *, patch_px: int | None = None, mpp: float | None = None) -> Features:
    """Read one slide's features; CLAM's (1, n, d) becomes (n, d).

    patch_px, mpp : as in `Features`, only where the file does not say; a file that disagrees is refused.
    """
    import h5py

    path = Path(path)
    try:
        check_hdf5(path)
        with h5py.File(path, "r") as file:
            absent = [name for name in ("features", "coords") if name not in file]
            if absent:
                message = f"{path.name} lacks {' and '.join(absent)}; it has {', '.join(file) or 'nothing'}: expected "
                raise InputError(message + "features (n, d) and coords (n, 2), as CLAM and TRIDENT write them")
            features, coords = file["features"][...], file["coords"][...]
            attrs = {**file.attrs, **file["features"].attrs, **file["coords"].attrs}
    except OSError as error:
        message = f"{path} is truncated or no HDF5 file ({told(error)}): write it again"
        raise InputError(message) from error
    features, coords = (a[0] if a.ndim == 3 and len(a) == 1 else a for a in (features, coords))
    _check(features, coords, path.name)
    own_px = _patch_at_level_0(attrs)
    own_mpp = float(attrs["level0_mpp"]) if "level0_mpp" in attrs else None
    for name, own, given in (("patch_px", own_px, patch_px), ("mpp", own_mpp, mpp)):
        if own is not None and given is not None and abs(own / given - 1) > 0.02:
            message = f"{path.name} says {name}={own:g}, {given:g} was given: leave it out, or correct the file"
            raise InputError(message)
    return Features(
        features=features.astype(np.float32),
        coords=coords.astype(np.int64),
        patch_px=own_px if own_px is not None else patch_px,
        mpp=own_mpp if own_mpp is not None else mpp,
        attrs=attrs,
    )


def write_features(
    path: str | Path, features: np.ndarray, coords: np.ndarray, *, patch_px: int, mpp: float, encoder: str
) -> Path:
    """Write features in the same layout, whole or not at all.

    features : (n, d). coords : (n, 2) x, y of upper left corners in pixels of level 0. patch_px : side of a patch
    there. mpp : um per pixel of level 0. encoder : what made them.
    """
    import h5py

    features, coords = np.asarray(features), np.asarray(coords)
    _check(features, coords, Path(path).name)
    if patch_px < 1 or not 0 < mpp < 100:
        message = f"patch_px={patch_px}, mpp={mpp}; expected pixels of level 0, and micrometres per pixel"
        raise InputError(message)
    with atomic_path(path) as aside, h5py.File(aside, "w") as file:
        file.create_dataset("features", data=features.astype(np.float32), compression="gzip", compression_opts=1)
        placed = file.create_dataset("coords", data=coords.astype(np.int64))
        placed.attrs.update({"patch_size": patch_px, "patch_size_level0": patch_px, "patch_level": 0,
                             "level0_mpp": mpp})  # fmt: skip
        file["features"].attrs["encoder"] = encoder
    return Path(path)


def _patch_at_level_0(attrs: dict[str, Any]) -> int | None:
    """Side of a patch in pixels of level 0: TRIDENT's own attribute, or CLAM's size times its level's downsampling."""
    if "patch_size_level0" in attrs:
        return int(np.ravel(attrs["patch_size_level0"])[0])
    if "patch_size" not in attrs:
        return None
    level = int(np.ravel(attrs.get("patch_level", 0))[0])
    if level == 0:
        return int(np.ravel(attrs["patch_size"])[0])
    return (
        round(float(attrs["patch_size"]) * float(np.ravel(attrs["downsample"])[0])) if "downsample" in attrs else None
    )


def _check(features: np.ndarray, coords: np.ndarray, name: str) -> None:
    if features.ndim != 2 or coords.ndim != 2 or coords.shape[1] != 2 or len(features) != len(coords):
        message = f"{name} has features {features.shape} and coords {coords.shape}; expected (n, d) and (n, 2)"
        raise InputError(message)
    if not len(features):
        message = f"{name} holds no patch: was any tissue found on the slide?"
        raise InputError(message)
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(1).sum())
        message = f"{name} has {bad} rows with NaN or infinite features: compute them again in float32"
        raise InputError(message)
    if coords.min() < 0 or np.any(coords % 1):
        message = f"{name} has coords like {coords.min():g}; expected whole pixels of level 0, from 0"
        raise InputError(message)
