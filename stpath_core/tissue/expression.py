"""What the cells of a virtual section express, and raw counts drawn from it.

Two steps, so that the same cells can feed several assays:

`cell_means`  biology : (N cells, G genes of the universe) shares that sum to 1 per cell
`counts`      an assay: raw negative-binomial integers of the genes it can see
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from stpath_core.errors import InputError
from stpath_core.tissue import genes as world
from stpath_core.tissue.cell_types import FINE_TYPES, ORGANS, SUPER_OF
from stpath_core.tissue.effects import Effects

if TYPE_CHECKING:
    from stpath_core.tissue.architecture import Architecture

MEDIAN_COUNTS = 62  # per cell on the panel; with what leaks in the assay then counts 64, as a real MERFISH section

# molecules per cell relative to a fibroblast: big and cycling cells hold more, granulocytes and fat little
CONTENT = {
    "carcinoma_invasive": 1.8, "carcinoma_in_situ": 1.7, "carcinoma_cycling": 2.3, "plasma": 1.6, "macrophage": 1.3,
    "luminal_epithelial": 1.4, "colonocyte": 1.4, "tubule_epithelial": 1.3, "alveolar_type2": 1.2,
    "t_cd4": 0.75, "t_cd8": 0.75, "b_cell": 0.8, "neutrophil": 0.5, "mast": 0.9, "adipocyte": 0.5, "pericyte": 0.8,
}  # fmt: skip
_NEIGHBOURS = 20  # cells that make the visible niche of a cell
_WAVELENGTH_UM = (120.0, 400.0)  # of the hidden niche fields


def profiles(organ: str | None = None) -> pd.DataFrame:
    """The planted mean profile of every fine type: (22 types, G genes), positive, rows sum to 1.

    With an organ, epithelial and neoplastic types also run that organ's programme.

    Examples
    --------
    >>> profiles("colon").shape
    (22, 620)
    """
    shares = np.exp(_type_activity(organ) @ world.loadings()[0] + world.type_noise(len(FINE_TYPES)))
    shares *= world.background()
    shares /= shares.sum(1, keepdims=True)
    return pd.DataFrame(shares, index=pd.Index(FINE_TYPES, name="cell_type"), columns=list(world.universe()))


def cell_means(arch: Architecture, *, effects: Effects, seed: int) -> np.ndarray:
    """What each cell really expresses: (N, G) float32, rows sum to 1 over the universe.

    Type profile, times the cell's own state, times a niche that the image shows (crowding, immune infiltrate,
    distance from vessels) and one that it does not (a smooth field).
    """
    rng = np.random.default_rng([seed, 101])
    code, xy_um = _types(arch), arch.cells[["x_um", "y_um"]].to_numpy()
    strength = _type_activity(arch.organ)
    names = world.loadings()[1]
    own = (strength > 0.5)[code]  # (N, P) programmes that the type runs
    activity = np.zeros(own.shape)
    activity += effects.cell_variation * own * rng.normal(size=own.shape)
    hidden = own * 0.5 + np.isin(names, world.STATES_HIDDEN)
    activity += effects.niche_hidden * hidden * smooth_fields(xy_um, len(names), rng)
    if effects.niche_visible:
        columns = [names.index(name) for name in world.STATES_VISIBLE]
        activity[:, columns] += effects.niche_visible * _visible_niche(xy_um, code)
    means = np.exp((activity @ world.loadings()[0]).astype(np.float32))
    means *= profiles(arch.organ).to_numpy(np.float32)[code]
    means /= means.sum(1, keepdims=True)
    return means


def patient_batch(organ: str, patient: int, *, effects: Effects) -> tuple[np.ndarray, np.ndarray]:
    """The batch effect of a patient, the same in all their sections: factor per gene (G,), and a profile (G,) added."""
    rng = np.random.default_rng([ORGANS.index(organ), patient, 102])
    n_genes = len(world.universe())
    factor = np.exp(effects.expression_batch * rng.normal(size=n_genes))
    added = np.exp(1.5 * rng.normal(size=n_genes)) * world.background()
    return factor, added / added.sum()


def counts(
    arch: Architecture,
    means: np.ndarray,
    *,
    effects: Effects,
    seed: int,
    genes: Sequence[str] | None = None,
    median_counts: float = MEDIAN_COUNTS,
) -> csr_matrix:
    """Raw counts of the genes that an assay sees: (N, len(genes)) int32 csr, negative binomial.

    genes : default the targeted panel. median_counts : over the cells, before section depth is drawn.
    """
    genes = world.panel() if genes is None else tuple(genes)
    index = pd.Index(world.universe()).get_indexer(genes)
    if (index < 0).any():
        missing = [g for g, i in zip(genes, index, strict=True) if i < 0][:5]
        message = f"genes {missing} are not in the universe of {len(world.universe())}: choose from genes.universe()"
        raise InputError(message)
    rng = np.random.default_rng([seed, 103])
    factor, added = patient_batch(arch.organ, arch.patient, effects=effects)
    scale = (factor * world.sensitivity(effects.gene_sensitivity))[index].astype(np.float32)
    seen = means[:, index] * scale
    size = np.array([CONTENT.get(name, 1.0) for name in FINE_TYPES])[_types(arch)]
    depth = size * np.exp(effects.depth_variation * rng.normal(size=len(means)))
    level = seen.sum(1).mean()
    ambient = seen.mean(0)
    extra = effects.batch_additive * level * (added[index] / added[index].sum()) + effects.ambient * ambient
    expected = (1 - effects.ambient - effects.batch_additive) * seen + extra.astype(np.float32)
    expected *= depth[:, None].astype(np.float32)
    section = np.exp(effects.section_depth * rng.normal())
    expected *= np.float32(median_counts * section / np.median(expected.sum(1)))
    if effects.overdispersion:
        shape = np.float32(1 / effects.overdispersion)
        expected *= rng.standard_gamma(shape, size=expected.shape, dtype=np.float32) / shape
    return csr_matrix(rng.poisson(expected).astype(np.int32))


def _types(arch: Architecture) -> np.ndarray:
    """(N,) index into FINE_TYPES."""
    return pd.Index(FINE_TYPES).get_indexer(arch.cells["cell_type"].astype(str))


def _type_activity(organ: str | None) -> np.ndarray:
    """(22, P) natural log of how strongly each type runs each programme."""
    if organ is not None and organ not in ORGANS:
        message = f"organ={organ!r}; expected one of {', '.join(ORGANS)}"
        raise InputError(message)
    names = world.loadings()[1]
    out = np.zeros((len(FINE_TYPES), len(names)))
    for row, name in enumerate(FINE_TYPES):
        for programme, strength in world.TYPE_PROGRAMMES[name].items():
            if programme != "organ":
                out[row, names.index(programme)] += strength
            elif organ is not None:
                out[row, names.index(f"organ_{organ}")] += strength
    return world.CONTRAST * out


def smooth_fields(xy_um: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` smooth fields of mean 0 and SD about 1, sums of eight plane waves, at the cells: (N, n)."""
    waves = 2 * np.pi / np.exp(rng.uniform(*np.log(_WAVELENGTH_UM), (n, 8)))
    angle, phase = rng.uniform(0, 2 * np.pi, (2, n, 8))
    out = np.empty((len(xy_um), n))
    for i in range(n):
        argument = xy_um @ (waves[i] * np.stack([np.cos(angle[i]), np.sin(angle[i])])) + phase[i]  # (N, 8)
        out[:, i] = np.cos(argument).sum(1) / 2
    return out


def _visible_niche(xy_um: np.ndarray, code: np.ndarray) -> np.ndarray:
    """What the image shows of a cell's surroundings, for hypoxia, interferon and matrix: (N, 3), each mean 0, SD 1."""
    names = np.array(FINE_TYPES)
    super_class = np.array([SUPER_OF[name] for name in FINE_TYPES])
    _, near = cKDTree(xy_um).query(xy_um, k=min(_NEIGHBOURS, len(xy_um)))
    near = near.reshape(len(xy_um), -1)
    vessels = xy_um[code == names.tolist().index("endothelial")]
    far = cKDTree(vessels).query(xy_um)[0] if len(vessels) else np.zeros(len(xy_um))
    immune = (super_class[code] == "inflammatory")[near].mean(1)
    tumour = (super_class[code] == "neoplastic")[near].mean(1)
    raw = np.stack([np.log1p(far), immune, tumour], axis=1)
    return (raw - raw.mean(0)) / np.maximum(raw.std(0), 1e-6)
