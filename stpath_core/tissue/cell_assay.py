"""The cell-level assay: where it sees nuclei, cells and transcripts. What a vendor's instrument would hand over.

Frames. The *image* frame is the H&E's, in um (pixel (row, col) covers um [col * mpp, (col + 1) * mpp)). The *assay*
frame is another scan: the same tissue turned by a degree or so, shifted, and slightly deformed. Everything in a
`Measurement` lies in the assay frame, in um; `to_image` brings it back and `to_image_claimed` is what the alignment
file says, which is a little wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import ConvexHull, cKDTree

from stpath_core.tissue.effects import Effects
from stpath_core.tissue.genes import panel
from stpath_core.tissue.histology import instance_mask

if TYPE_CHECKING:
    from stpath_core.tissue.architecture import Architecture

ASSAY_MPP = 0.5  # um per pixel of the assay's own images and masks
CONTROLS = tuple(f"NegControlProbe_{i:05d}" for i in range(1, 11))
MIN_QV = 20.0  # transcripts below are written but not counted, as the vendor does
_NUCLEAR_SHARE = 0.4  # of a cell's transcripts
_CONTROL_SHARE = 0.02  # control probes, as a share of the transcripts of no cell
_MARGIN_UM = 12.0  # border of the assay's field of view around the tissue


@dataclass(frozen=True)
class Measurement:
    """Segmented nuclei and cells, and transcripts, in the assay frame.

    nuclei_um, cells_um : (M, V, 2) polygons as the instrument segments them. true_cell : (M,) cell_id of the planted
    cell behind each. kind : (M,) "whole", "merged" or "split".
    transcripts : x_um, y_um, z_um float32, feature (code into `features`), cell (0 none, else 1..M), in_nucleus, qv,
        and the truth `source` (row of the planted cell, -1 for none), which no file repeats.
    masks : nuclei and cells at ASSAY_MPP, (H, W) int32, ids 1..M. to_image, to_image_claimed : (3, 3), um to um.
    """

    nuclei_um: np.ndarray
    cells_um: np.ndarray
    true_cell: np.ndarray
    kind: np.ndarray
    transcripts: pd.DataFrame
    features: tuple[str, ...]
    nucleus_mask: np.ndarray
    cell_mask: np.ndarray
    to_image: np.ndarray
    to_image_claimed: np.ndarray


def measure(arch: Architecture, counts: csr_matrix, *, effects: Effects, seed: int) -> Measurement:
    """Run the assay on a section. counts : (N, G) integers per planted cell on the panel, see `expression.counts`."""
    rng = np.random.default_rng([seed, 201])
    to_assay, claimed, shape = _frames(arch.size_um, effects, rng)
    bend = _warp(effects.warp_um, rng)
    nuclei_um = _apply(to_assay, bend(np.asarray(arch.nuclei_um, np.float64)))
    cells_um = _apply(to_assay, bend(np.asarray(arch.cells_um, np.float64)))
    seen_nuclei, seen_cells, source, kind = _segment(nuclei_um, cells_um, effects, rng)
    nucleus_mask = instance_mask(seen_nuclei, mpp=ASSAY_MPP, shape=shape)
    cell_mask = instance_mask(seen_cells, mpp=ASSAY_MPP, shape=shape)
    cell_mask[nucleus_mask > 0] = nucleus_mask[nucleus_mask > 0]
    transcripts = _scatter(nuclei_um, cells_um, counts, effects, rng)
    col = (transcripts["x_um"].to_numpy() / ASSAY_MPP).astype(np.int32).clip(0, shape[1] - 1)
    row = (transcripts["y_um"].to_numpy() / ASSAY_MPP).astype(np.int32).clip(0, shape[0] - 1)
    transcripts["cell"] = cell_mask[row, col]
    transcripts["in_nucleus"] = (nucleus_mask[row, col] > 0).astype(np.uint8)
    return Measurement(
        nuclei_um=seen_nuclei.astype(np.float32),
        cells_um=seen_cells.astype(np.float32),
        true_cell=np.asarray(arch.cells.index)[source],
        kind=kind,
        transcripts=transcripts,
        features=panel() + CONTROLS,
        nucleus_mask=nucleus_mask,
        cell_mask=cell_mask,
        to_image=np.linalg.inv(to_assay),
        to_image_claimed=claimed,
    )


def count_matrix(measurement: Measurement) -> csr_matrix:
    """Transcripts of sufficient quality per segmented cell: (M, n_features) int32."""
    t = measurement.transcripts
    keep = (t["cell"].to_numpy() > 0) & (t["qv"].to_numpy() >= MIN_QV)
    cell, feature = t["cell"].to_numpy()[keep] - 1, t["feature"].to_numpy()[keep]
    shape = (len(measurement.true_cell), len(measurement.features))
    matrix = csr_matrix((np.ones(len(cell), np.int32), (cell, feature)), shape=shape)
    matrix.sum_duplicates()
    return matrix


def _frames(size_um, effects: Effects, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """True image -> assay affine, the claimed assay -> image affine, and the shape in pixels of the assay's images."""
    turn = np.deg2rad(rng.uniform(0.4, 1.6) * rng.choice([-1, 1]))
    to_assay = _rotation(turn)
    corners = _apply(to_assay, np.array([[0, 0], [size_um[0], 0], [0, size_um[1]], size_um], float))
    to_assay[:2, 2] = _MARGIN_UM - corners.min(0)
    extent = corners.max(0) - corners.min(0) + 2 * _MARGIN_UM
    direction = rng.uniform(0, 2 * np.pi)
    error = _rotation(np.deg2rad(effects.rotation_deg) * rng.choice([-1, 1]), about=np.asarray(size_um) / 2)
    error[:2, 2] += effects.misregistration_um * np.array([np.cos(direction), np.sin(direction)])
    shape = tuple(int(np.ceil(v / ASSAY_MPP)) for v in extent[::-1])
    return to_assay, error @ np.linalg.inv(to_assay), shape


def _rotation(angle: float, about=(0.0, 0.0)) -> np.ndarray:
    """(3, 3) affine that turns by `angle` radians about a point."""
    c, s = np.cos(angle), np.sin(angle)
    out = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    out[:2, 2] = np.asarray(about) - out[:2, :2] @ np.asarray(about)
    return out


def _apply(affine: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Apply a (3, 3) affine to (..., 2) points."""
    return xy @ affine[:2, :2].T + affine[:2, 2]


def _warp(amplitude_um: float, rng: np.random.Generator):
    """A smooth deformation of the section, um to um, with displacements of RMS `amplitude_um`."""
    wave = 2 * np.pi / rng.uniform(150, 400, (2, 3))
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 2, 3))

    def bend(xy: np.ndarray) -> np.ndarray:
        if not amplitude_um:
            return xy
        out = xy.copy()
        for axis in range(2):
            direction = wave[axis] * np.stack([np.cos(angle[axis]), np.sin(angle[axis])])
            waves = np.cos(xy @ direction + phase[axis]).sum(-1)
            out[..., axis] += amplitude_um / np.sqrt(3) * waves  # three waves of variance 1/2, two axes
        return out

    return bend


def _segment(nuclei_um, cells_um, effects: Effects, rng: np.random.Generator):
    """Nuclei and cells as the instrument outlines them, the row of the planted cell behind each, and its kind."""
    n, v = nuclei_um.shape[:2]
    centre = nuclei_um.mean(1)
    draw = rng.random(n)
    kind = np.full(n, "whole", dtype="<U6")
    kind[draw < effects.merged / 2] = "merged"  # each takes a neighbour with it
    kind[(draw >= effects.merged / 2) & (draw < effects.merged / 2 + effects.split)] = "split"
    keep = rng.random(n) >= effects.missed
    outlines, cells = _wobble(nuclei_um, effects.border_um, rng), cells_um.copy()
    if n > 1:
        distance, near = cKDTree(centre).query(centre, k=2)
        for i in np.flatnonzero(kind == "merged"):
            j = near[i, 1]
            if distance[i, 1] > 12 or kind[j] != "whole" or not (keep[i] and keep[j]):
                kind[i] = "whole"
                continue
            outlines[i] = _hull(outlines[i], outlines[j])
            cells[i] = _hull(cells[i], cells[j])
            keep[j] = False
    kind[(kind == "merged") & ~keep] = "whole"
    rows = np.flatnonzero(keep)
    half = np.arange(v // 2 + 1)
    first, second = _resample(half, v), _resample(half + v // 2, v) % v
    halved = rows[kind[rows] == "split"]
    extra_nuclei, extra_cells = outlines[halved][:, second], cells[halved][:, second]
    outlines[halved], cells[halved] = outlines[halved][:, first], cells[halved][:, first]
    nuclei = np.concatenate([outlines[rows], extra_nuclei])
    return nuclei, np.concatenate([cells[rows], extra_cells]), np.r_[rows, halved], kind[np.r_[rows, halved]]


def _wobble(polygons: np.ndarray, sd_um: float, rng: np.random.Generator) -> np.ndarray:
    """Move borders in and out by a smooth error of SD `sd_um`: the instrument's outline is not the pathologist's."""
    centre = polygons.mean(1, keepdims=True)
    angle = 2 * np.pi * np.arange(polygons.shape[1]) / polygons.shape[1]
    basis = np.stack([np.ones_like(angle), *(f(k * angle) for k in (2, 3) for f in (np.cos, np.sin))])  # (5, V)
    error = sd_um * rng.normal(size=(len(polygons), 5)) @ basis / np.sqrt(3)
    arm = polygons - centre
    length = np.linalg.norm(arm, axis=2, keepdims=True)
    return centre + arm * np.maximum(1 + error[..., None] / np.maximum(length, 1e-6), 0.3)


def _hull(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Convex hull of two polygons, with as many vertices as one of them."""
    points = np.concatenate([a, b])
    hull = points[ConvexHull(points).vertices]
    closed = np.vstack([hull, hull[:1]])
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))]
    at = np.linspace(0, along[-1], len(a), endpoint=False)
    return np.stack([np.interp(at, along, closed[:, axis]) for axis in range(2)], axis=1)


def _resample(index: np.ndarray, n: int) -> np.ndarray:
    """Spread the given vertex numbers over n places."""
    return index[np.linspace(0, len(index) - 1, n).round().astype(int)]


def _scatter(nuclei_um, cells_um, counts: csr_matrix, effects: Effects, rng: np.random.Generator) -> pd.DataFrame:
    """Place every counted molecule in its cell, let some leak, add some that belong to no cell."""
    counts = counts.tocsr()
    n_genes = counts.shape[1]
    per_entry = counts.data.astype(np.int64)
    cell = np.repeat(np.repeat(np.arange(counts.shape[0], dtype=np.int32), np.diff(counts.indptr)), per_entry)
    gene = np.repeat(counts.indices.astype(np.int32), per_entry)
    n, v = len(cell), nuclei_um.shape[1]
    xy = np.empty((n, 2), np.float32)
    corner = rng.integers(0, v, n, dtype=np.int32)
    radius = np.sqrt(rng.random(n, dtype=np.float32))[:, None]
    along = rng.random(n, dtype=np.float32)[:, None]
    nuclear = rng.random(n, dtype=np.float32) < _NUCLEAR_SHARE
    for polygons, where in ((nuclei_um, nuclear), (cells_um, ~nuclear)):
        polygons = polygons.astype(np.float32)
        c, k = cell[where], corner[where]
        edge = polygons[c, k] * (1 - along[where]) + polygons[c, (k + 1) % v] * along[where]
        centre = polygons.mean(1)[c]
        xy[where] = centre + (edge - centre) * radius[where]
    if effects.overlap and len(nuclei_um) > 1:
        middle = nuclei_um.mean(1)
        step = middle[cKDTree(middle).query(middle, k=2)[1][:, 1]] - middle  # to the nearest neighbour
        step[rng.random(len(step)) >= effects.overlap] = 0
        xy += step.astype(np.float32)[cell] * (rng.random(n, dtype=np.float32) < 0.5)[:, None]
    leaks = np.flatnonzero(rng.random(n, dtype=np.float32) < effects.leakage)
    angle = rng.uniform(0, 2 * np.pi, len(leaks))
    step = rng.exponential(effects.leakage_um, len(leaks)) if effects.leakage_um else np.zeros(len(leaks))
    xy[leaks] += np.stack([np.cos(angle), np.sin(angle)], axis=1) * step[:, None]
    low, high = cells_um.min((0, 1)), cells_um.max((0, 1))
    n_free = rng.poisson(n * effects.unassigned / (1 - effects.unassigned))
    n_control = rng.poisson(n_free * _CONTROL_SHARE)
    free = rng.uniform(low, high, (n_free + n_control, 2)).astype(np.float32)
    free_gene = np.r_[rng.choice(gene, n_free), n_genes + rng.integers(0, len(CONTROLS), n_control)] if n else []
    xy = np.concatenate([xy, free]).clip(0, None)
    total = len(xy)
    quality = np.float32(40) - rng.exponential(3.0, total).astype(np.float32)
    poor = rng.random(total, dtype=np.float32) < effects.low_quality
    quality = np.where(poor, rng.uniform(2, MIN_QV, total).astype(np.float32), np.maximum(quality, np.float32(MIN_QV)))
    return pd.DataFrame(
        {
            "x_um": xy[:, 0],
            "y_um": xy[:, 1],
            "z_um": rng.uniform(0, 5, total).astype(np.float32),
            "feature": np.concatenate([gene, np.asarray(free_gene, np.int32)]),
            "qv": quality.astype(np.float32),
            "source": np.r_[cell, np.full(n_free + n_control, -1, np.int32)],
        }
    )
