"""What a virtual section measures: the numbers that are set beside real tissue, and what each effect costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.cell_assay import Measurement, count_matrix, measure
from stpath_core.tissue.effects import Effects
from stpath_core.tissue.expression import cell_means, counts
from stpath_core.tissue.genes import panel, universe
from stpath_core.tissue.xenium import polygon_area

# a MERFISH section of lung cancer, 3,177 cells, 479 genes (Chen et al. 2024): the same quantities, where it has them
MERFISH = {"median counts": 64.0, "zero share": 0.905, "neighbours alike": 0.62}


def card(arch: Architecture, measurement: Measurement) -> pd.Series:
    """Numbers of one section.

    cells per mm2; nuclear area (median, um2); median counts and zero share of the panel per segmented cell;
    neighbours alike: share of the 10 nearest cells that are of the same super-class; shares of transcripts in no cell
    and in a wrong one; nuclei missed; registration error (median, um) of outlines through the claimed alignment.
    """
    matrix = count_matrix(measurement)[:, : len(panel())]
    xy = arch.cells[["x_um", "y_um"]].to_numpy()
    code = arch.cells["super_class"].astype("category").cat.codes.to_numpy()
    near = cKDTree(xy).query(xy, k=min(11, len(xy)))[1][:, 1:]
    made = measurement.transcripts[measurement.transcripts["source"] >= 0]
    cell, source = made["cell"].to_numpy(), made["source"].to_numpy()
    true_row = np.r_[-1, arch.cells.index.get_indexer(measurement.true_cell)]
    whole = measurement.kind == "whole"
    seen = measurement.nuclei_um.mean(1)[whole]
    seen = seen @ measurement.to_image_claimed[:2, :2].T + measurement.to_image_claimed[:2, 2]
    planted = np.asarray(arch.nuclei_um).mean(1)[true_row[1:][whole]]
    return pd.Series(
        {
            "cells per mm2": len(xy) / np.prod(arch.size_um) * 1e6,
            "nuclear area": float(np.median(polygon_area(np.asarray(arch.nuclei_um)))),
            "median counts": float(np.median(np.asarray(matrix.sum(1)))),
            "zero share": 1 - matrix.nnz / np.prod(matrix.shape),
            "neighbours alike": float((code[near] == code[:, None]).mean()),
            "in no cell": float((cell == 0).mean()),
            "in a wrong cell": float(((cell > 0) & (true_row[cell] != source)).mean()),
            "nuclei missed": 1 - len(np.unique(measurement.true_cell)) / len(xy),
            "registration error": float(np.median(np.linalg.norm(seen - planted, axis=1))),
        }
    )


def effect_costs(arch: Architecture, *, effects: Effects, names: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """The card of one piece of tissue with no effect, with each of the named ones alone, and with all: a row each.

    Beside the card: `correlation`, how well log counts per cell agree with what the cells express (Pearson over all
    cells and genes of the panel).
    """
    off = Effects.none()
    scale = {"leakage": ("leakage_um",)}  # a distance that only means something together with its share
    arms = {"none": off}
    for name in names:
        arms[name] = replace(off, **{key: getattr(effects, key) for key in (name, *scale.get(name, ()))})
    arms["all"] = effects
    truth = cell_means(arch, effects=off, seed=seed)
    columns = np.isin(universe(), panel())
    rows = {}
    for label, arm in arms.items():
        raw = counts(arch, cell_means(arch, effects=arm, seed=seed), effects=arm, seed=seed)
        measurement = measure(arch, raw, effects=arm, seed=seed)
        rows[label] = card(arch, measurement)
        rows[label]["correlation"] = _agreement(arch, truth[:, columns], measurement)
    return pd.DataFrame(rows).T


def _agreement(arch: Architecture, truth: np.ndarray, measurement: Measurement) -> float:
    """Correlation of log1p counts per 10,000 with the planted shares, over segmented cells and panel genes."""
    rows = arch.cells.index.get_indexer(measurement.true_cell)
    return float(np.corrcoef(_logged(count_matrix(measurement)[:, : truth.shape[1]]), _logged(truth[rows]))[0, 1])


def _logged(matrix: csr_matrix | np.ndarray) -> np.ndarray:
    dense = np.asarray(matrix.todense() if isinstance(matrix, csr_matrix) else matrix, np.float32)
    return np.log1p(1e4 * dense / np.maximum(dense.sum(1, keepdims=True), 1e-9)).ravel()
