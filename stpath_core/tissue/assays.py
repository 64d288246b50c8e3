"""All assays of one seed in one folder: what later notebooks read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from stpath_core.io.features import read_features, write_features
from stpath_core.io.files import atomic_folder, atomic_path
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.dissociated import reference
from stpath_core.tissue.slides import Bag, SlideCohort, slide_cohort
from stpath_core.tissue.spot_sections import spot_cohort

if TYPE_CHECKING:
    from anndata import AnnData

SPOTS, SLIDES, BULK, SCRNA = "spots.h5ad", "slides", "bulk.h5ad", "scrna.h5ad"


def write_assays(
    folder: str | Path,
    *,
    organ: str = "breast",
    seed: int = 0,
    effects: AssayEffects | None = None,
    spots: dict | None = None,
    slides: dict | None = None,
    scrna: dict | None = None,
    workers: int = 1,
) -> dict[str, Path]:
    """Write spots.h5ad, slides/<slide>.h5, bulk.h5ad and scrna.h5ad of one organ and seed; returns their paths by name.

    spots, slides, scrna : what to pass on to `spot_cohort`, `slide_cohort` and `reference`, e.g. {"patients": 4};
    None makes that assay at its defaults.
    """
    folder = Path(folder)
    shared = {"organ": organ, "seed": seed, "effects": effects, "workers": workers}
    cohort = slide_cohort(**shared, **(slides or {}))
    return {
        "spots": write_table(folder / SPOTS, spot_cohort(**shared, **(spots or {}))),
        "slides": write_bags(folder / SLIDES, cohort),
        "bulk": write_table(folder / BULK, cohort.bulk),
        "scrna": write_table(folder / SCRNA, reference(**shared, **(scrna or {}))),
    }


def write_table(path: str | Path, adata: AnnData) -> Path:
    """Write an AnnData as compressed h5ad, whole or not at all."""
    path = Path(path)
    with atomic_path(path) as aside:
        adata.write_h5ad(aside, compression="gzip", compression_opts=1)
    return path


def write_bags(folder: str | Path, cohort: SlideCohort) -> Path:
    """Write one HDF5 file per slide as `io.write_features` does; kept tiles beside them as `imgs` (T, 224, 224, 3)."""
    folder = Path(folder)
    with atomic_folder(folder) as aside:
        for name, bag in cohort.bags.items():
            _write_bag(aside / f"{name}.h5", bag)
    return folder


def _write_bag(path: Path, bag: Bag) -> None:
    write_features(path, bag.features, bag.coords, patch_px=bag.tile_px, mpp=bag.mpp, encoder="tile_features")
    if bag.tiles is not None:
        with h5py.File(path, "a") as file:
            file.create_dataset("imgs", data=bag.tiles, chunks=(1, *bag.tiles.shape[1:]), compression="gzip",
                                compression_opts=1)  # fmt: skip


def read_bag(path: str | Path) -> Bag:
    """Read one slide's bag back."""
    found = read_features(path)
    with h5py.File(path) as file:
        tiles = file["imgs"][...] if "imgs" in file else None
    return Bag(found.features, found.coords, tiles, found.mpp, found.patch_px)
