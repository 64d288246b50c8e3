"""Typed nuclei counted under spots: pictures of a cohort grown again, the network of Part 1 asked once a section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import keys, predict
from stpath_core.fit import one_torch_thread
from stpath_core.parallel import each
from stpath_core.spots import WHITE, cut_patches, neighbourhood_mean
from stpath_core.tissue.cell_types import SUPER_CLASSES
from stpath_core.tissue.spot_sections import spot_image

if TYPE_CHECKING:
    from anndata import AnnData

LOOK_MPP = 1.0  # um per px of the pictures in which nuclei are counted: spots' counts are as good as at 0.5 um
CLOSE_MPP = 0.5  # of the close-up that is shown
TILES = {"tile_px": 512, "margin_px": 32}  # small ones stay in the processor's cache: a third less time


@dataclass(frozen=True)
class SpotNuclei:
    """counts (S, 4) typed nuclei of each spot, in the order of SUPER_CLASSES. features (S, F + 1): the mean of the
    network's features over them, and the logarithm of their number."""

    counts: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class CloseUp:
    """A piece of H&E with its nuclei: image (H, W, 3) at `mpp`, instances (H, W), types (n,), corner_um x, y."""

    image: np.ndarray
    mpp: float
    instances: np.ndarray
    types: np.ndarray
    corner_um: np.ndarray


def mosaic(patches: np.ndarray) -> np.ndarray:
    """Patches (n, P, P, 3) row by row in one picture, as square as it goes; glass where none is left.

    So the network sees all spots of a section at once: stain and types are relative to a picture.
    """
    n, size = patches.shape[:2]
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.full((rows * columns, *patches.shape[1:]), WHITE, np.uint8)
    sheet[:n] = patches
    sheet = sheet.reshape(rows, columns, size, size, 3).swapaxes(1, 2)  # (rows, P, columns, P, 3)
    return np.ascontiguousarray(sheet.reshape(rows * size, columns * size, 3))


def spot_of(xy_px: np.ndarray, n: int, *, patch_px: int) -> np.ndarray:
    """(N,) number of the spot in whose disc each point (N, 2; x, y) of a mosaic of n patches lies; -1: in none."""
    columns = int(np.ceil(np.sqrt(n)))
    column, row = (xy_px // patch_px).astype(int).T
    spot = row * columns + column
    away = np.hypot(*(xy_px - (np.stack([column, row], 1) + 0.5) * patch_px).T)
    return np.where((away <= patch_px / 2) & (spot < n), spot, -1)


def per_spot(spot: np.ndarray, types: np.ndarray, features: np.ndarray, n: int) -> SpotNuclei:
    """Count and describe: spot (N,) of each nucleus, -1 none; types (N,) class index, -1 unknown; features (N, F).

    A spot without a nucleus has the mean features of the others.
    """
    counts = np.zeros((n, len(SUPER_CLASSES)), int)
    known = (spot >= 0) & (types >= 0)
    np.add.at(counts, (spot[known], types[known]), 1)
    total, found = np.zeros((n, features.shape[1])), np.bincount(spot[spot >= 0], minlength=n)[:, None]
    np.add.at(total, spot[spot >= 0], features[spot >= 0])
    mean = np.where(found > 0, total / np.maximum(found, 1), total.sum(0) / max(int(found.sum()), 1))
    return SpotNuclei(counts, np.hstack([mean, np.log1p(found)]).astype(np.float32))


def look(
    spots: AnnData, *, checkpoint: str | Path, look_um: float, close_um: float = 300.0, device: str = "cpu"
) -> tuple[SpotNuclei, CloseUp | None]:
    """Nuclei of one section's spots, within `look_um` of H&E around the middle of each, found in pictures grown again.

    A close-up of `close_um` around the spot numbered uns["close_up"], where there is one.
    """
    network = predict.load(checkpoint, device=device)
    name, centres_um = str(spots.obs[keys.SECTION].iloc[0]), np.asarray(spots.obsm[keys.SPATIAL])
    size = round(look_um / LOOK_MPP)
    sheet = mosaic(cut_patches(spot_image(spots, name, mpp=LOOK_MPP), centres_um / LOOK_MPP, patch_px=size))
    found = predict.predict_image(network, sheet, LOOK_MPP, average_views=False, **TILES)
    spot = spot_of(found.centroids_px, len(centres_um), patch_px=size)
    under = per_spot(spot, found.type_probs.argmax(1), found.features, len(centres_um))
    if "close_up" not in spots.uns:
        return under, None
    image = spot_image(spots, name, mpp=CLOSE_MPP)
    span = np.minimum(round(close_um / CLOSE_MPP), image.shape[1::-1])  # x, y
    corner = np.round(centres_um[int(spots.uns["close_up"])] / CLOSE_MPP - span / 2).astype(int)
    x, y = np.clip(corner, 0, np.array(image.shape[1::-1]) - span)
    piece = np.ascontiguousarray(image[y : y + span[1], x : x + span[0]])
    near = predict.predict_image(network, piece, CLOSE_MPP, average_views=False)
    whole = np.concatenate([near.features, found.features])  # typed beside the section's other nuclei
    types = predict.type_probabilities(network.type_head, whole)[: len(near.features)].argmax(1)
    return under, CloseUp(piece, CLOSE_MPP, near.instances, types, np.array([x, y]) * CLOSE_MPP)


def look_at_all(
    cohort: AnnData, *, checkpoint: str | Path, look_um: float, close_up: Mapping[str, int] | None = None,
    device: str = "cpu", workers: int = 1, progress: Callable[[Sequence], Sequence] = iter,
) -> tuple[SpotNuclei, dict[str, CloseUp]]:  # fmt: skip
    """The same of a whole virtual cohort, in its order. close_up : section -> number of the spot in the middle of it.

    Images are standardised one by one and no expression is seen, so a section does not depend on the others.
    """
    section = cohort.obs[keys.SECTION].astype(str).to_numpy()
    names = list(dict.fromkeys(section))
    jobs = []
    for name in names:
        job = cohort[section == name, :0].copy()
        job.uns |= {"close_up": close_up[name]} if name in (close_up or {}) else {}
        jobs.append(job)
    ask = partial(_look_alone, checkpoint=checkpoint, look_um=look_um, device=device)
    made = each(ask, jobs, workers=workers)
    parts = dict(zip(progress(names), made, strict=True))
    out = [np.zeros((len(section), v.shape[1]), v.dtype) for v in vars(parts[names[0]][0]).values()]
    for name, (under, _) in parts.items():
        for whole, values in zip(out, vars(under).values(), strict=True):
            whole[section == name] = values
    return SpotNuclei(*out), {name: close for name, (_, close) in parts.items() if close is not None}


def _look_alone(spots: AnnData, **how) -> tuple[SpotNuclei, CloseUp | None]:
    with one_torch_thread():
        return look(spots, **how)


def border_spot(section: AnnData) -> int:
    """Number of the spot around which most classes of tissue meet: where there is something to see."""
    label = section.obs[keys.LABEL].astype(str).to_numpy()
    classes = [name for name in np.unique(label) if name != keys.UNDETERMINED]
    is_class = (label[:, None] == np.array(classes)).astype(np.float32)
    xy_um = np.asarray(section.obsm[keys.SPATIAL])
    near = neighbourhood_mean(is_class, xy_um, section.obs[keys.SECTION].astype(str).to_numpy())
    spread = 1 - (near**2).sum(1)  # Gini's
    inside = ((xy_um > xy_um.min(0)) & (xy_um < xy_um.max(0))).all(1)
    return int(np.where(inside, spread, -1).argmax())
