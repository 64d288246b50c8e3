"""Cohorts of spots with their features, ready for notebook 21: the virtual tissue's, and HER2ST's sections with images.

One AnnData: raw counts in layers["counts"], obs patient and section, obsm["spatial"] in um, obsm["features"] (n, d) and
obsm["density"] (n, 3) of the patch around each spot. Features are kept per section in the layout of CLAM.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import keys, spots
from stpath_core.errors import InputError
from stpath_core.io.features import Features, read_features
from stpath_core.io.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from anndata import AnnData

FEATURES, DENSITY = "features", "density"
LOW_RESOLUTION = 2.0  # um per pixel, above which nuclei cannot be seen: such sections are reported apart


def virtual_spots(
    patients: int, side: int, *, folder: str | Path, seed: int, mpp: float = 1.0, organ: str = "breast",
    workers: int = 1, effects=None,
) -> AnnData:  # fmt: skip
    """`side` x `side` spots of each patient of the virtual tissue, features kept in `folder`, pictures left behind.

    mpp : um per pixel at which the H&E is painted and described; `tissue.spot_image` paints it again where wanted.
    """
    from stpath_core import tissue

    adata = tissue.spot_cohort(patients, rows=side, columns=side, organ=organ, mpp=mpp, seed=seed, workers=workers,
                               effects=effects)  # fmt: skip

    def open_image(name: str) -> tuple[np.ndarray, np.ndarray]:
        rows = (adata.obs[keys.SECTION] == name).to_numpy()
        return adata.uns["spatial"][name]["images"]["hires"], adata.obsm[keys.SPATIAL][rows]

    names = [str(name) for name in adata.obs[keys.SECTION].cat.categories]
    _describe(adata, names, folder, {name: partial(_opened, open_image, name, mpp) for name in names}, spots.PATCH_UM)
    for library in adata.uns["spatial"].values():
        library["images"] = {}
    return adata


def her2st_spots(data_dir: str | Path, *, folder: str | Path, patch_um: float = spots.PATCH_UM) -> AnnData:
    """The sections of HER2ST that come with an image, the genes that all of them list.

    data_dir : with counts/, spots/ and images/ (see `io.open_st`). obs["mpp"] : um per pixel of the section's image.
    """
    import anndata

    from stpath_core import io

    tables = io.open_st(data_dir, io.st_pictured(data_dir))
    if len({t.obs[keys.PATIENT].iloc[0] for t in tables.values()}) < 2:
        message = f"{data_dir} has images of {', '.join(tables) or 'no section'}; sections of two patients are needed, "
        raise InputError(message + "since every patient is held out in turn")
    jobs = {}
    for name, table in tables.items():
        mpp = io.frame_of(table).mpp
        table.obs["mpp"] = mpp
        jobs[name] = partial(_opened, partial(_read, table, mpp), name, mpp)
    adata = anndata.concat(list(tables.values()), join="inner")
    for column in (keys.PATIENT, keys.SECTION):
        adata.obs[column] = adata.obs[column].astype(str)
    _describe(adata, list(tables), folder, jobs, patch_um)
    io.set_frame(adata, io.Frame(unit="um"))
    return adata


def _read(table: AnnData, mpp: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    from stpath_core import io

    del name
    return io.read_image(table.uns["image"], mpp=mpp)[0], io.positions_px(table) * mpp


def _opened(
    open_image: Callable[[str], tuple[np.ndarray, np.ndarray]], name: str, mpp: float, patch_um: float
) -> tuple[Features, np.ndarray]:
    """Features of a section, and in their last three columns its mean optical densities."""
    image, centres_um = open_image(name)
    found = spots.section_features(image, centres_um, mpp=mpp, patch_um=patch_um)
    density = spots.density_features(image, centres_um, mpp=mpp, patch_um=patch_um)
    return found, density


def _describe(adata: AnnData, names: list[str], folder: str | Path, jobs: dict, patch_um: float) -> None:
    """Fill obsm["features"] and obsm["density"] section by section, one file each."""
    parts = {FEATURES: {}, DENSITY: {}}
    for name in names:
        path, of_density = Path(folder) / f"{name}.h5", Path(folder) / f"{name}.density.npy"
        if not (path.is_file() and of_density.is_file()):
            found, density = jobs[name](patch_um)
            spots.kept_features(path, lambda found=found: found)
            with atomic_path(of_density) as aside:
                np.save(aside, density)
        parts[FEATURES][name], parts[DENSITY][name] = read_features(path).features, np.load(of_density)
    section = adata.obs[keys.SECTION].astype(str).to_numpy()
    for key, tables in parts.items():
        values = np.zeros((adata.n_obs, next(iter(tables.values())).shape[1]), np.float32)
        for name, rows in tables.items():
            values[section == name] = rows
        adata.obsm[key] = values


def use_features(adata: AnnData, folder: str | Path) -> AnnData:
    """Another encoder's features (UNI, CONCH, ...) instead: one CLAM or TRIDENT file per section, `<section>.h5`.

    Patches are matched with spots by their middles, in um from the corner of the image.
    """
    section = adata.obs[keys.SECTION].astype(str).to_numpy()
    tables = {}
    for name in dict.fromkeys(section):
        path = Path(folder) / f"{name}.h5"
        if not path.is_file():
            message = (
                f"{folder} holds no {name}.h5; one file per section is needed: {', '.join(dict.fromkeys(section))}"
            )
            raise InputError(message)
        here = adata.obsm[keys.SPATIAL][section == name]
        tables[name] = spots.features_of_spots(read_features(path), here, where=path.name)
    widths = {name: t.shape[1] for name, t in tables.items()}
    if len(set(widths.values())) > 1:
        message = f"the features have different widths, {widths}: they are of different encoders"
        raise InputError(message)
    values = np.zeros((adata.n_obs, next(iter(widths.values()))), np.float32)
    for name, rows in tables.items():
        values[section == name] = rows
    adata.obsm[FEATURES] = values
    return adata


def true_shares(adata: AnnData, key: str, parent: Callable[[str], str]) -> pd.DataFrame:
    """obsm[key], shares of fine types, summed over the types of each parent."""
    fine = adata.obsm[key]
    return fine.T.groupby([parent(t) for t in fine.columns]).sum().T
