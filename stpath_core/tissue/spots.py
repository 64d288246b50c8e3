"""The spot assay: sums over the cells under each spot, then everything that printing, tissue and sequencing do to them.

Spots are discs of `spot_um` on a square array (or staggered, as on Visium) that covers the section. HER2ST's spots of
100 um lie 200 um apart; by default ours lie 112 um apart, because the tissue that lies between spots is seen by no
assay and would have to be grown too: a patch of 224 px at 0.5 um/px around each spot then just fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.batch import Batch, gene_batch
from stpath_core.tissue.broad import spot_sensitivity
from stpath_core.tissue.cell_types import REGIONS
from stpath_core.tissue.expression import smooth_fields
from stpath_core.tissue.fields import nearest
from stpath_core.tissue.mixtures import label_of
from stpath_core.tissue.molecules import draw_counts, sum_molecules

SPOT_UM, PITCH_UM = 100.0, 112.0
MEDIAN_COUNTS = 2000.0  # of a section of middling depth; HER2ST's, on as many genes, have a geometric mean of 1,990


@dataclass(frozen=True)
class SpotMeasurement:
    """One section's spots. counts (S, G) raw; molecules (S, G) what the cells hold; label and true_label (S,) words.

    composition, mrna : (S, 22) true shares of cells and of molecules by type. xy_um (S, 2), array (S, 2) row, column.
    """

    xy_um: np.ndarray
    array: np.ndarray
    counts: csr_matrix
    molecules: np.ndarray
    composition: pd.DataFrame
    mrna: pd.DataFrame
    n_cells: np.ndarray
    label: np.ndarray
    true_label: np.ndarray


def spot_array(rows: int, columns: int, *, pitch_um: float, staggered: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Centres (S, 2) in um and (row, column) (S, 2) of an array whose first spot lies half a pitch inside the section.

    staggered : every other row is shifted by half a pitch and rows are 0.866 of it apart, as on Visium.
    """
    row, column = (a.ravel() for a in np.indices((rows, columns)))
    x, y = column + 0.5, row + 0.5
    if staggered:
        x, y = x + 0.5 * (row % 2), 0.5 + row * np.sqrt(3) / 2
    return pitch_um * np.stack([x, y], axis=1).astype(float), np.stack([row, column], axis=1)


def section_size(rows: int, columns: int, *, pitch_um: float, staggered: bool = False) -> tuple[float, float]:
    """(width, height) in um of the tissue that an array covers."""
    xy_um, _ = spot_array(rows, columns, pitch_um=pitch_um, staggered=staggered)
    width, height = np.ceil(xy_um.max(0) + pitch_um / 2)
    return float(width), float(height)


def measure_spots(
    arch: Architecture,
    xy_um: np.ndarray,
    array: np.ndarray,
    *,
    spot_um: float = SPOT_UM,
    section: int = 0,
    effects: AssayEffects,
    seed: int,
    median_counts: float = MEDIAN_COUNTS,
) -> SpotMeasurement:
    """Run the assay on a grown section. seed : of this section's noise; the batch belongs to patient and section."""
    groups = under_spots(arch, xy_um, spot_um=spot_um)
    molecules, composition, mrna = sum_molecules(arch, groups, effects=effects, seed=seed)
    shares = region_share(arch, xy_um, spot_um=spot_um)
    batch = gene_batch(arch.organ, arch.patient, section=section, effects=effects)
    rng = np.random.default_rng([seed, 602])
    caught = catch(molecules, xy_um, shares.argmax(1), batch=batch, effects=effects)
    depth = np.exp(effects.section_depth * rng.normal()) * np.exp(effects.spot_depth * rng.normal(size=len(xy_um)))
    caught *= (depth * median_counts / max(float(np.median(caught.sum(1))), 1e-9))[:, None].astype(np.float32)
    counts = draw_counts(caught, overdispersion=effects.overdispersion, dropout=effects.dropout, rng=rng)
    label, true_label = annotate(arch, xy_um, shares, spot_um=spot_um, effects=effects, seed=seed)
    n_cells = np.asarray(groups.sum(1)).ravel().astype(int)
    return SpotMeasurement(xy_um, array, counts, molecules, composition, mrna, n_cells, label, true_label)


def under_spots(arch: Architecture, xy_um: np.ndarray, *, spot_um: float) -> csr_matrix:
    """(S, N) 1 where the centre of a cell lies under a spot. Spots must not overlap."""
    if len(xy_um) > 1 and cKDTree(xy_um).query(xy_um, k=2)[0][:, 1].min() < spot_um:
        message = f"spots of spot_um={spot_um:g} overlap; give a pitch_um of at least that"
        raise InputError(message)
    away, spot = cKDTree(xy_um).query(arch.cells[["x_um", "y_um"]].to_numpy())
    cell = np.flatnonzero(away <= spot_um / 2)
    return csr_matrix((np.ones(len(cell)), (spot[cell], cell)), shape=(len(xy_um), len(away)))


def catch(
    molecules: np.ndarray, xy_um: np.ndarray, region: np.ndarray, *, batch: Batch, effects: AssayEffects
) -> np.ndarray:
    """What reaches the spots of a section, (S, G) float32, in units of molecules: batch, diffusion, ambient."""
    efficiency = spot_sensitivity(effects.gene_sensitivity) * batch.factor  # (G,)
    caught = molecules * efficiency.astype(np.float32) * batch.by_region.astype(np.float32)[region]
    if effects.diffusion and len(xy_um) > 1:
        caught = (1 - effects.diffusion) * caught + effects.diffusion * (_spread(xy_um, effects.diffusion_um) @ caught)
    level, mean = caught.sum(1, keepdims=True), caught.mean(0)
    kept = 1 - effects.ambient - effects.batch_additive
    return (kept * caught + effects.ambient * mean + effects.batch_additive * level * batch.added).astype(np.float32)


def _spread(xy_um: np.ndarray, mean_um: float) -> csr_matrix:
    """(S, S) share of what a spot (column) loses that each other spot (row) catches; columns sum to 1."""
    if not mean_um:
        return csr_matrix(np.eye(len(xy_um), dtype=np.float32))
    near = cKDTree(xy_um)
    nearest_um = near.query(xy_um, k=2)[0][:, 1].max()
    pairs = near.sparse_distance_matrix(near, max(4 * mean_um, 1.01 * nearest_um), output_type="coo_matrix").tocsr()
    pairs.data = np.where(pairs.data > 0, np.exp(-pairs.data / mean_um), 0)
    share = csr_matrix(pairs / np.maximum(pairs.sum(0), 1e-30))
    return share.astype(np.float32)


def region_share(arch: Architecture, xy_um: np.ndarray, *, spot_um: float) -> np.ndarray:
    """(S, 7) share of each spot's area in each of REGIONS, by the map of territories (stroma counts to its tumour)."""
    step = np.arange(-spot_um / 2, spot_um / 2 + 1, 6.0)
    offset = np.stack(np.meshgrid(step, step), -1).reshape(-1, 2)
    offset = offset[np.hypot(*offset.T) <= spot_um / 2]  # (k, 2)
    at = (xy_um[:, None] + offset).reshape(-1, 2)
    code = nearest(arch.layout.territory, *at.T, grid_um=arch.grid_um).reshape(len(xy_um), -1)  # (S, k)
    return (code[..., None] == np.arange(len(REGIONS))).mean(1)


def annotate(
    arch: Architecture, xy_um: np.ndarray, shares: np.ndarray, *, spot_um: float, effects: AssayEffects, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The annotators' label of each spot and the true one, (S,) words.

    The annotators' borders wander by `label_border_um` from the true ones; of the most mixed spots they leave a share
    `undetermined`.
    """
    words = np.array([label_of(region, arch.organ) if region != "background" else "" for region in REGIONS], object)
    rng = np.random.default_rng([seed, 603])
    shift = effects.label_border_um * smooth_fields(xy_um / 2, 2, rng)  # (S, 2), smooth over 240 um and more
    drawn = region_share(arch, xy_um + shift, spot_um=spot_um) if effects.label_border_um else shares
    label = words[drawn.argmax(1)]
    doubt = 1 - drawn.max(1) + 0.1 * rng.random(len(xy_um))
    label[np.argsort(-doubt)[: round(effects.undetermined * len(xy_um))]] = keys.UNDETERMINED
    return label.astype(str), words[shares.argmax(1)].astype(str)
