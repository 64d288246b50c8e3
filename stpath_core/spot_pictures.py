"""The pictures of a cohort of spots, section by section: virtual H&E grown again from its recipe, or a user's images.

Micrometres in, pixels out; patches travel as uint8 and are normalised where the network lies.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.images import read_image
from stpath_core.parallel import each
from stpath_core.spots import PATCH_UM, cut_patches
from stpath_core.stain import standardise_stain
from stpath_core.tissue.spot_sections import spot_image

if TYPE_CHECKING:
    from anndata import AnnData

PATCH_MPP = 2.0  # nuclei are four pixels wide: enough for tissue, too coarse for chromatin


def cohort_patches(
    adata: AnnData, *, patch_um: float = PATCH_UM, mpp: float = PATCH_MPP, workers: int = 1
) -> np.ndarray:
    """A patch of H&E around every spot, (n, S, S, 3) uint8 at `mpp`, S = patch_um / mpp, in the order of `adata`.

    A virtual cohort carries its recipe in uns and its images are grown again. Real spots name their image in
    uns["images"], section -> {"path", "mpp"}, and lie at obsm["spatial_px"]; a finer image is averaged down.
    """
    size = round(patch_um / mpp)
    sections = [str(name) for name in adata.obs[keys.SECTION].unique()]
    rows = [np.flatnonzero((adata.obs[keys.SECTION] == name).to_numpy()) for name in sections]
    light = adata[:, :0].copy()  # no expression goes to the other processes
    jobs = [light[own].copy() for own in rows]
    cut = partial(_section_patches, size=size, mpp=mpp)
    out = np.empty((adata.n_obs, size, size, 3), np.uint8)
    for own, patches in zip(rows, each(cut, jobs, workers=workers), strict=True):
        out[own] = patches
    return out


def _section_patches(spots: AnnData, *, size: int, mpp: float) -> np.ndarray:
    """(m, size, size, 3) uint8 of one section's spots."""
    name = str(spots.obs[keys.SECTION].iloc[0])
    if "recipe" in spots.uns:
        return cut_patches(spot_image(spots, name, mpp=mpp), spots.obsm[keys.SPATIAL] / mpp, patch_px=size)
    known = spots.uns.get("images", {}).get(name)
    if known is None or keys.SPATIAL_PX not in spots.obsm:
        message = f"section {name} has no image in uns['images'], or no obsm['spatial_px']: leave it out of stage 2"
        raise InputError(message)
    image, own_mpp = read_image(known["path"], mpp=float(known["mpp"]))
    large = round(size * mpp / own_mpp)
    patches = cut_patches(image, spots.obsm[keys.SPATIAL_PX], patch_px=large)
    return resized(patches, size)


def common_stain(patches: np.ndarray, section: np.ndarray) -> np.ndarray:
    """The same patches (n, S, S, 3), each section's brought to the common stain by the median and spread of its own."""
    out = np.empty_like(patches)
    for name in np.unique(section):
        own = section == name
        out[own] = standardise_stain(np.concatenate(list(patches[own]))).reshape(patches[own].shape)
    return out


def resized(patches: np.ndarray, size: int) -> np.ndarray:
    """(n, L, L, 3) uint8 -> (n, size, size, 3) uint8, filtered when it gets smaller."""
    import torch
    import torch.nn.functional as F

    if patches.shape[1] == size:
        return patches
    x = torch.from_numpy(patches).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def pictured(adata: AnnData, *, data_dir: str = "") -> AnnData:
    """The spots that have a picture, without their counts, ready for `cohort_patches`.

    All spots of a virtual cohort; of an ST folder (HER2ST) those whose section has an image there, with
    obsm["spatial_px"] and uns["images"] filled in.
    """
    from stpath_core.io import frame_of, open_st, st_pictured

    light = adata[:, :0].copy()
    if "recipe" in adata.uns:
        return light
    names = [str(name) for name in adata.obs[keys.SECTION].unique()]
    drawn = st_pictured(data_dir)
    opened = open_st(data_dir, [name for name in names if name in drawn])
    if not opened:
        message = f"none of the sections {', '.join(names)} has an image in {data_dir}: stage 2 needs images/images.csv"
        raise InputError(message)
    light = light[light.obs[keys.SECTION].astype(str).isin(list(opened))].copy()
    light.uns["images"] = {n: {"path": one.uns["image"], "mpp": frame_of(one).mpp} for n, one in opened.items()}
    place = [opened[str(s)] for s in light.obs[keys.SECTION]]
    row = [one.obs_names.get_loc(name) for one, name in zip(place, light.obs_names, strict=True)]
    light.obsm[keys.SPATIAL_PX] = np.stack([one.obsm[keys.SPATIAL_PX][i] for one, i in zip(place, row, strict=True)])
    return light
