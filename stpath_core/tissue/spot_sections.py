"""Cohorts of spots: several patients, one AnnData, with the picture or the recipe for it."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.frame import Frame, set_frame
from stpath_core.parallel import each
from stpath_core.tissue.architecture import Architecture, grow
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.broad import broad_genes
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.cohort import PATIENTS_PER_SEED
from stpath_core.tissue.histology import render
from stpath_core.tissue.mixtures import region_shares
from stpath_core.tissue.molecules import per_ten_thousand
from stpath_core.tissue.spots import PITCH_UM, SPOT_UM, measure_spots, section_size, spot_array
from stpath_core.tissue.stains import patient_stain

if TYPE_CHECKING:
    from anndata import AnnData

TERRITORY_UM = 330.0  # three spots: HER2ST's neighbours carry the same label in .88 of pairs


def spot_cohort(
    patients: int = 8,
    *,
    sections: int = 1,
    organ: str = "breast",
    rows: int = 17,
    columns: int = 17,
    spot_um: float = SPOT_UM,
    pitch_um: float = PITCH_UM,
    staggered: bool = False,
    mpp: float | None = None,
    seed: int = 0,
    effects: AssayEffects | None = None,
    workers: int = 1,
) -> AnnData:
    """Spots of a cohort of patients: (patients * sections * rows * columns spots, 2,000 genes).

    X and layers["counts"] : raw counts, int32. layers["expected"] : what the cells under the spot express, per 10,000,
    before any noise or batch. obsm["composition"], obsm["mrna_share"] : true shares of cells and of molecules by type.
    obsm["spatial"] : x, y in um from the upper left corner of the section.
    obs : patient, section, label (a pathologist's, "undetermined" among them), true_label, array_row, array_col,
    n_cells. uns["spatial"][section] : images and scalefactors, as scanpy and squidpy read them. uns["frame"] : see
    `io.Frame`.

    mpp : um per pixel of the H&E to render; None renders none, and `spot_image` does it when it is wanted.
    spot_um=55, pitch_um=100, staggered=True is a Visium array. Sections of a patient share the patient's batch.
    """
    import anndata

    effects = AssayEffects() if effects is None else effects
    _check(patients, sections, organ, rows, columns, seed)
    shares = region_shares(organ, patients, seed=seed, effects=effects)
    recipes = [
        {"organ": organ, "patient": PATIENTS_PER_SEED * seed + p, "section": s, "mixture": shares[p], "rows": rows,
         "columns": columns, "spot_um": spot_um, "pitch_um": pitch_um, "staggered": staggered, "seed": seed}
        for p, s in product(range(patients), range(sections))
    ]  # fmt: skip
    parts = list(each(partial(_one_section, mpp=mpp, effects=effects), recipes, workers=workers))
    whole = anndata.concat(parts, uns_merge=None)
    whole.obs_names = np.concatenate([part.obs_names for part in parts])
    for name in (keys.PATIENT, keys.SECTION, keys.LABEL, "true_label"):
        whole.obs[name] = whole.obs[name].astype("category")
    whole.uns["spatial"] = {key: value for part in parts for key, value in part.uns["spatial"].items()}
    whole.uns["recipe"] = {"sections": {p.obs[keys.SECTION].iloc[0]: r for p, r in zip(parts, recipes, strict=True)},
                           "effects": effects.as_dict()}  # fmt: skip
    set_frame(whole, Frame(unit="um"))
    return whole


def spot_image(adata: AnnData, section: str, *, mpp: float = 0.5) -> np.ndarray:
    """(H, W, 3) uint8 H&E of one section of a cohort at `mpp`, grown again from the recipe in uns.

    Pixel (row, column) covers um [column * mpp, (column + 1) * mpp) of obsm["spatial"].
    """
    recipes = adata.uns.get("recipe", {}).get("sections", {})
    if section not in recipes:
        message = f"section={section!r} is not among {', '.join(recipes) or 'none'}: pass a cohort of spot_cohort"
        raise InputError(message)
    effects = AssayEffects(**adata.uns["recipe"]["effects"])
    return _render(_grow(recipes[section], effects), recipes[section], effects, mpp=mpp)


def _grow(recipe: dict, effects: AssayEffects) -> Architecture:
    size_um = section_size(int(recipe["rows"]), int(recipe["columns"]), pitch_um=float(recipe["pitch_um"]),
                           staggered=bool(recipe["staggered"]))  # fmt: skip
    return grow(str(recipe["organ"]), size_um=size_um, seed=int(recipe["section"]), patient=int(recipe["patient"]),
                mixture={k: float(v) for k, v in recipe["mixture"].items()}, territory_um=TERRITORY_UM,
                composition=effects.composition)  # fmt: skip


def _own_seed(recipe: dict) -> int:
    words = [int(recipe["seed"]), ORGANS.index(str(recipe["organ"])), int(recipe["patient"]), int(recipe["section"])]
    return int(np.random.SeedSequence([*words, 601]).generate_state(1)[0])


def _render(arch: Architecture, recipe: dict, effects: AssayEffects, *, mpp: float) -> np.ndarray:
    stain = patient_stain(arch.organ, arch.patient, variation=effects.stain_variation)
    return render(arch, mpp=mpp, stain=stain, seed=_own_seed(recipe))


def _one_section(recipe: dict, *, mpp: float | None, effects: AssayEffects) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    arch, seed = _grow(recipe, effects), _own_seed(recipe)
    grid = {name: recipe[name] for name in ("pitch_um", "staggered")}
    xy_um, array = spot_array(recipe["rows"], recipe["columns"], **grid)
    m = measure_spots(arch, xy_um, array, spot_um=recipe["spot_um"], section=recipe["section"], effects=effects,
                      seed=seed)  # fmt: skip
    name = f"{arch.organ}_p{arch.patient}_s{recipe['section']}"
    obs = pd.DataFrame({keys.PATIENT: f"p{arch.patient}", keys.SECTION: name, keys.LABEL: m.label,
                        "true_label": m.true_label, "array_row": array[:, 0], "array_col": array[:, 1],
                        "n_cells": m.n_cells}, index=[f"{name}_{r}x{c}" for r, c in array])  # fmt: skip
    adata = AnnData(m.counts, obs=obs, var=pd.DataFrame(index=list(broad_genes())))
    adata.layers[keys.COUNTS] = m.counts
    adata.layers["expected"] = per_ten_thousand(m.molecules)
    adata.obsm[keys.SPATIAL] = xy_um
    for key, table in (("composition", m.composition), ("mrna_share", m.mrna)):
        adata.obsm[key] = table.set_index(obs.index)
    image = {} if mpp is None else {"hires": _render(arch, recipe, effects, mpp=mpp)}
    adata.uns["spatial"] = {name: _library(image, mpp, recipe["spot_um"])}
    return adata


def _library(images: dict, mpp: float | None, spot_um: float) -> dict:
    """uns["spatial"][section], as Visium readers make it; obsm["spatial"] is in um, so a scale factor is px per um."""
    scale = 1.0 / mpp if mpp else 1.0
    factors = {"tissue_hires_scalef": scale, "spot_diameter_fullres": spot_um}
    return {"images": images, "scalefactors": factors}


def _check(patients: int, sections: int, organ: str, rows: int, columns: int, seed: int) -> None:
    if organ not in ORGANS:
        message = f"organ={organ!r}; expected one of {', '.join(ORGANS)}"
        raise InputError(message)
    if not 1 <= patients <= PATIENTS_PER_SEED:
        message = f"patients={patients}; expected 1 to {PATIENTS_PER_SEED}"
        raise InputError(message)
    if min(sections, rows - 1, columns - 1) < 1 or seed < 0:
        message = f"sections={sections}, rows={rows}, columns={columns}, seed={seed}; expected at least 1, 2, 2 and 0"
        raise InputError(message)
