"""The single-cell reference: donors' tissue taken apart, what survives, and what another platform sees of that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.parallel import each
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.broad import N_GENES, broad_genes, broad_profiles, platform
from stpath_core.tissue.cell_types import FINE_TYPES, ORGANS, SUPER_OF
from stpath_core.tissue.mixtures import region_shares
from stpath_core.tissue.molecules import draw_counts, sum_molecules, type_codes

if TYPE_CHECKING:
    from anndata import AnnData

MEDIAN_COUNTS = 500.0  # per cell; Wu et al. count 512 on as many genes
_FIRST_DONOR = 1_000_000  # of seed 0: nobody whom another assay has seen

# the coarser of the two levels of annotation
MAJOR_TYPES = {
    "luminal_epithelial": "normal epithelial", "basal_myoepithelial": "normal epithelial",
    "colonocyte": "normal epithelial", "goblet": "normal epithelial", "alveolar_type2": "normal epithelial",
    "tubule_epithelial": "normal epithelial", "carcinoma_invasive": "cancer epithelial",
    "carcinoma_in_situ": "cancer epithelial", "carcinoma_cycling": "cancer epithelial", "t_cd4": "T cells",
    "t_cd8": "T cells", "b_cell": "B cells", "plasma": "plasma cells", "macrophage": "myeloid",
    "neutrophil": "myeloid", "mast": "myeloid", "fibroblast": "fibroblasts", "caf": "fibroblasts",
    "endothelial": "endothelial", "pericyte": "perivascular", "smooth_muscle": "perivascular",
    "adipocyte": "adipocytes",
}  # fmt: skip
# share of a type's cells that survive dissociation. Fat cells burst or float off (Wu et al. hold none), granulocytes
# die, cells that are held by fibres or neighbours come out late; the rest is ordered so, the numbers are ours.
SURVIVAL = {
    "luminal_epithelial": 0.3, "basal_myoepithelial": 0.25, "colonocyte": 0.3, "goblet": 0.2, "alveolar_type2": 0.3,
    "tubule_epithelial": 0.3, "carcinoma_invasive": 0.3, "carcinoma_in_situ": 0.25, "carcinoma_cycling": 0.35,
    "t_cd4": 0.7, "t_cd8": 0.7, "b_cell": 0.6, "plasma": 0.35, "macrophage": 0.5, "neutrophil": 0.05, "mast": 0.3,
    "fibroblast": 0.35, "caf": 0.4, "endothelial": 0.5, "pericyte": 0.5, "smooth_muscle": 0.15, "adipocyte": 0.0,
}  # fmt: skip
_MAY_MISS = ("mast", "plasma", "pericyte", "macrophage", "endothelial", "b_cell")  # types a reference may lack


def reference(
    donors: int = 6,
    *,
    organ: str = "breast",
    size_um: tuple[float, float] = (600.0, 600.0),
    seed: int = 0,
    effects: AssayEffects | None = None,
    workers: int = 1,
) -> AnnData:
    """A single-cell reference of an organ: (cells, 2,000 genes), raw counts in X and layers["counts"].

    obs : donor, cell_type (fine), cell_type_major, super_class. varm["prototypes"] (genes, types) : the planted mean
    profile of every type that the donors' tissue holds, rows of a type sum to 1: also of those that no cell of the
    reference shows. uns["missing_types"] : types left out on purpose; uns["tissue_share"] : true share of every type
    before dissociation.

    size_um : of the piece of tissue taken from each donor.
    """
    from anndata import AnnData

    effects = AssayEffects() if effects is None else effects
    if organ not in ORGANS or donors < 1 or seed < 0:
        message = f"donors={donors}, organ={organ!r}, seed={seed}; expected >= 1, one of {', '.join(ORGANS)}, >= 0"
        raise InputError(message)
    missing = missing_types(int(effects.missing_types), seed=seed)
    shares = region_shares(organ, donors, seed=seed + _FIRST_DONOR, effects=effects, balanced=True)
    jobs = [(_FIRST_DONOR + 100 * seed + k, shares[k]) for k in range(donors)]
    make = partial(_one_donor, organ=organ, size_um=size_um, effects=effects, seed=seed, missing=missing)
    counts, codes, tissue = zip(*each(make, jobs, workers=workers), strict=True)
    code, tissue = np.concatenate(codes), np.sum(tissue, axis=0)  # (cells,), (22,)
    fine = np.array(FINE_TYPES)[code]
    donor = np.repeat([f"d{k}" for k in range(donors)], [len(c) for c in codes])
    obs = pd.DataFrame({"donor": donor, "cell_type": fine, "cell_type_major": [MAJOR_TYPES[t] for t in fine],
                        "super_class": [SUPER_OF[t] for t in fine]}).astype("category")  # fmt: skip
    obs.index = [f"{d}_c{i}" for i, d in enumerate(donor)]
    adata = AnnData(vstack(counts).tocsr(), obs=obs, var=pd.DataFrame(index=list(broad_genes())))
    adata.layers[keys.COUNTS] = adata.X.copy()
    held = [name for name, n in zip(FINE_TYPES, tissue, strict=True) if n]
    adata.varm["prototypes"] = broad_profiles(organ).loc[held].T
    adata.uns["tissue_share"] = {t: float(n / tissue.sum()) for t, n in zip(FINE_TYPES, tissue, strict=True) if n}
    adata.uns["missing_types"] = np.array(missing, dtype=str)
    adata.uns["effects"] = effects.as_dict()
    return adata


def missing_types(n: int, *, seed: int) -> list[str]:
    """The `n` types that a seed's reference lacks."""
    if n > len(_MAY_MISS):
        message = f"missing_types={n}; at most {len(_MAY_MISS)} types can be left out"
        raise InputError(message)
    return np.random.default_rng([seed, 801]).permutation(_MAY_MISS)[:n].tolist()


def _one_donor(
    job: tuple[int, dict], *, organ: str, size_um, effects: AssayEffects, seed: int, missing: list[str]
) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
    """Counts (n, G) and type codes (n,) of the cells that survive, and cells of every type in the tissue (22,)."""
    who, mixture = job
    arch = grow(organ, size_um=size_um, seed=0, patient=who, mixture=mixture, composition=effects.composition)
    rng = np.random.default_rng([seed, ORGANS.index(organ), who, 802])
    code = type_codes(arch)
    survival = np.array([SURVIVAL[name] for name in FINE_TYPES]) ** effects.dissociation
    kept = (rng.random(len(code)) < survival[code]) & ~np.isin(np.array(FINE_TYPES)[code], missing)
    rows = np.flatnonzero(kept)
    alone = csr_matrix((np.ones(len(rows)), (np.arange(len(rows)), rows)), shape=(len(rows), len(code)))
    own = int(rng.integers(2**31))
    molecules, _, _ = sum_molecules(arch, alone, effects=effects, seed=own)
    factor = platform(effects.platform) * np.exp(effects.donor_batch * rng.normal(size=N_GENES))
    seen = molecules * factor.astype(np.float32)
    soup, level = seen.mean(0), seen.sum(1, keepdims=True)
    soup = soup / max(float(soup.sum()), 1e-12)
    seen = (1 - effects.reference_ambient) * seen + effects.reference_ambient * level * soup
    depth = np.exp(effects.reference_depth * rng.normal(size=len(rows)))
    seen *= (MEDIAN_COUNTS * depth / max(float(np.median(level)), 1e-12))[:, None]
    counts = draw_counts(seen, overdispersion=effects.overdispersion, dropout=0, rng=rng)
    return counts, code[rows], np.bincount(code, minlength=len(FINE_TYPES))
