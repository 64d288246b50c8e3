"""Slides: a small piece of each of many patients as H&E tiles, a bag of tile features, and the bulk of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stpath_core import features, keys
from stpath_core.errors import InputError
from stpath_core.parallel import each
from stpath_core.stain import normalise_macenko
from stpath_core.tissue.architecture import Architecture, grow
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.batch import gene_batch
from stpath_core.tissue.broad import broad_genes, spot_sensitivity
from stpath_core.tissue.cell_types import ORGANS, REGIONS
from stpath_core.tissue.fields import nearest
from stpath_core.tissue.histology import render
from stpath_core.tissue.mixtures import region_shares
from stpath_core.tissue.molecules import draw_counts, per_ten_thousand, sum_molecules
from stpath_core.tissue.stains import patient_stain

if TYPE_CHECKING:
    from anndata import AnnData

TILE_PX, TILE_MPP = 224, 0.5
BULK_COUNTS = 1e6  # median of the slides
_FIRST_PATIENT = 10_000  # of seed 0: other people than those of spots and sections


@dataclass(frozen=True)
class Bag:
    """One slide. features (T, F) float32; coords (T, 2) x, y in px of the slide at `mpp`, upper left corner of a tile.

    tiles : (T, tile_px, tile_px, 3) uint8, or None where they were not kept.
    """

    features: np.ndarray
    coords: np.ndarray
    tiles: np.ndarray | None
    mpp: float = TILE_MPP
    tile_px: int = TILE_PX


@dataclass(frozen=True)
class SlideCohort:
    """Bags by slide name, and the bulk expression of the same slides in the same order (obs_names are the slides)."""

    bags: dict[str, Bag]
    bulk: AnnData


def slide_cohort(
    slides: int = 100,
    *,
    organ: str = "breast",
    tiles: int = 3,
    seed: int = 0,
    effects: AssayEffects | None = None,
    keep_tiles: bool = False,
    images: bool = True,
    common_stain: bool = False,
    workers: int = 1,
) -> SlideCohort:
    """One slide of `tiles` x `tiles` H&E tiles (224 px at 0.5 um/px) for each of `slides` patients, and its bulk.

    bulk : (slides, 2,000 genes) X and layers["counts"] raw int32; layers["expected"] what the slide's cells express,
    per 10,000, before noise and batch; obsm["composition"], obsm["mrna_share"] true shares of cells and molecules by
    type. Bags hold `features.tile_features` of the tiles; with `keep_tiles` the tiles too, for an encoder of yours.
    common_stain=True takes the features (not the tiles) after `stain.normalise_macenko`, slide by slide.
    images=False leaves the bags out and makes the same bulk in a tenth of the time: for effects that no image shows.
    """
    from anndata import AnnData

    effects = AssayEffects() if effects is None else effects
    if organ not in ORGANS or slides < 1 or tiles < 1 or seed < 0:
        message = f"slides={slides}, organ={organ!r}, tiles={tiles}, seed={seed}; expected >= 1, an organ, >= 1, >= 0"
        raise InputError(message)
    shares = region_shares(organ, slides, seed=seed + _FIRST_PATIENT, effects=effects, balanced=True)
    jobs = [(_FIRST_PATIENT * (seed + 1) + k, shares[k]) for k in range(slides)]
    show = {"keep_tiles": keep_tiles, "images": images, "common_stain": common_stain}
    make = partial(_one_slide, organ=organ, tiles=tiles, effects=effects, seed=seed, **show)
    bags, molecules, counts, composition, mrna, n_cells = zip(*each(make, jobs, workers=workers), strict=True)
    names = [f"slide_{k:04d}" for k in range(slides)]
    obs = pd.DataFrame({keys.PATIENT: [f"p{who}" for who, _ in jobs], keys.ORGAN: organ, "n_cells": n_cells},
                       index=pd.Index(names, name="slide"))  # fmt: skip
    bulk = AnnData(csr_matrix(np.stack(counts)), obs=obs, var=pd.DataFrame(index=list(broad_genes())))
    bulk.layers[keys.COUNTS] = bulk.X.copy()
    bulk.layers["expected"] = per_ten_thousand(np.stack(molecules))
    for key, tables in (("composition", composition), ("mrna_share", mrna)):
        bulk.obsm[key] = pd.concat(tables).set_index(obs.index)
    bulk.uns["effects"] = effects.as_dict()
    return SlideCohort(dict(zip(names, bags, strict=True)) if images else {}, bulk)


def _one_slide(
    job: tuple[int, dict], *, organ: str, tiles: int, effects: AssayEffects, seed: int, images: bool, **show: bool
):
    patient, mixture = job
    own = int(np.random.SeedSequence([seed, ORGANS.index(organ), patient, 701]).generate_state(1)[0])
    side = tiles * TILE_PX * TILE_MPP
    arch = grow(organ, size_um=(side, side), seed=0, patient=patient, mixture=mixture, composition=effects.composition)
    bag = _bag(arch, tiles=tiles, effects=effects, seed=own, **show) if images else None
    return bag, *_bulk(arch, effects=effects, seed=own), len(arch.cells)


def _bag(
    arch: Architecture, *, tiles: int, effects: AssayEffects, seed: int, keep_tiles: bool, common_stain: bool
) -> Bag:
    stain = patient_stain(arch.organ, arch.patient, variation=effects.stain_variation)
    image = render(arch, mpp=TILE_MPP, stain=stain, seed=seed)
    cut = _tiled(image, tiles)
    row, column = np.divmod(np.arange(tiles**2), tiles)
    return Bag(
        features=features.tile_features(_tiled(normalise_macenko(image), tiles) if common_stain else cut, mpp=TILE_MPP),
        coords=TILE_PX * np.stack([column, row], axis=1).astype(np.int64),
        tiles=cut.copy() if keep_tiles else None,
    )


def _tiled(image: np.ndarray, tiles: int) -> np.ndarray:
    """A square image -> (tiles * tiles, TILE_PX, TILE_PX, 3), row by row."""
    return image.reshape(tiles, TILE_PX, tiles, TILE_PX, 3).swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX, 3)


def _bulk(arch: Architecture, *, effects: AssayEffects, seed: int):
    """Molecules (G,) of all cells, raw counts (G,), and (1, 22) true shares of cells and molecules."""
    territory = nearest(arch.layout.territory, *arch.cells[["x_um", "y_um"]].to_numpy().T, grid_um=arch.grid_um)
    n = len(territory)
    groups = csr_matrix((np.ones(n), (territory, np.arange(n))), shape=(len(REGIONS), n))
    molecules, _, _ = sum_molecules(arch, groups, effects=effects, seed=seed)  # (7, G)
    everyone = csr_matrix(np.ones((1, n)))
    whole, composition, mrna = sum_molecules(arch, everyone, effects=effects, seed=seed)
    batch = gene_batch(arch.organ, arch.patient, effects=effects)
    caught = (molecules * batch.by_region).sum(0) * batch.factor * spot_sensitivity(effects.gene_sensitivity)
    caught = (1 - effects.batch_additive) * caught / caught.sum() + effects.batch_additive * batch.added
    rng = np.random.default_rng([seed, 702])
    expected = BULK_COUNTS * np.exp(effects.bulk_depth * rng.normal()) * caught
    counts = draw_counts(expected[None], overdispersion=effects.bulk_overdispersion, dropout=0, rng=rng)
    return whole[0], counts.toarray()[0], composition, mrna
