"""From cells to molecules to counts: what spots, bulk and dissociated cells have in common."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, diags_array

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.broad import BACKGROUND_SHARE, background_profiles
from stpath_core.tissue.cell_types import FINE_TYPES
from stpath_core.tissue.expression import CONTENT, cell_means


def type_codes(arch: Architecture) -> np.ndarray:
    """(N,) index of every cell into FINE_TYPES."""
    return arch.cells["cell_type"].cat.codes.to_numpy().astype(np.intp)


def mrna_content(strength: float) -> np.ndarray:
    """Molecules of a cell of each type beside a fibroblast: (22,), to the power `strength`."""
    return np.array([CONTENT.get(name, 1.0) for name in FINE_TYPES]) ** strength


def sum_molecules(
    arch: Architecture, groups: csr_matrix, *, effects: AssayEffects, seed: int
) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Molecules of groups of cells over the broad panel, before any instrument: (n, 2000) float32.

    groups : (n, N) 0 and 1, which cells belong to a group. Beside the molecules, (n, 22) shares of the group's cells
    and of its molecules by type; a group without cells has zeros everywhere. `sum` over a row is molecules in units
    of a fibroblast's.
    """
    code, content = type_codes(arch), mrna_content(effects.mrna_content)
    weighted = groups @ diags_array(content[code])  # (n, N)
    means = cell_means(arch, effects=effects, seed=seed)  # (N, G of the universe)
    number = groups @ csr_matrix((np.ones(len(code)), (np.arange(len(code)), code)), shape=(len(code), len(content)))
    number = number.toarray()  # (n, 22)
    held = number * content
    known = (1 - BACKGROUND_SHARE) * np.asarray(weighted.astype(np.float32) @ means)
    molecules = np.hstack([known, (held @ background_profiles()).astype(np.float32)])
    shares = [values / np.maximum(values.sum(1, keepdims=True), 1e-12) for values in (number, held)]
    composition, mrna = (pd.DataFrame(values.astype(np.float32), columns=list(FINE_TYPES)) for values in shares)
    return molecules, composition, mrna


def draw_counts(expected: np.ndarray, *, overdispersion: float, dropout: float, rng: np.random.Generator) -> csr_matrix:
    """Raw counts of given expectation, int32: negative binomial, then a share `dropout` of the entries set to 0."""
    expected = np.array(expected, np.float32)
    if overdispersion:
        shape = np.float32(1 / overdispersion)
        expected *= rng.standard_gamma(shape, size=expected.shape, dtype=np.float32) / shape
    counts = rng.poisson(expected).astype(np.int32)
    if dropout:
        counts[rng.random(counts.shape, dtype=np.float32) < dropout] = 0
    return csr_matrix(counts)


def per_ten_thousand(molecules: np.ndarray) -> np.ndarray:
    """Rows scaled to 10,000, float32; a row of zeros stays."""
    return (1e4 * molecules / np.maximum(molecules.sum(1, keepdims=True), 1e-12)).astype(np.float32)
