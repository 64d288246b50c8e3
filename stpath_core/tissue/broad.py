"""The broad gene panel of spots, bulk and single cells: the universe, and background genes that no programme drives.

Real spots hold thousands of genes of which most say little; a panel of markers alone would be too easy. Background
genes carry names that no annotation knows (`BACKGROUND0001`), so that nobody takes them for biology. They follow the
cell's type through a small noise and nothing else, so that their sum over cells needs only the number of each type.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from stpath_core.tissue import genes as world
from stpath_core.tissue.cell_types import FINE_TYPES
from stpath_core.tissue.expression import profiles

N_GENES = 2000
BACKGROUND_SHARE = 0.75  # of a cell's molecules
_ABUNDANCE_SD = 1.0  # natural log, of background genes: HER2ST's 2,000 loudest genes spread so
_TYPE_SD = 0.15  # natural log, by which a type differs from the others in a background gene
_WORLD = 20_260_102


@cache
def broad_genes() -> tuple[str, ...]:
    """The 2,000 genes, the universe first."""
    n = N_GENES - len(world.universe())
    return (*world.universe(), *(f"BACKGROUND{i:04d}" for i in range(1, n + 1)))


@cache
def background_profiles() -> np.ndarray:
    """Shares of the background genes in each type: (22, n_background), rows sum to `BACKGROUND_SHARE`."""
    rng = np.random.default_rng([_WORLD, 1])
    n = N_GENES - len(world.universe())
    level = _ABUNDANCE_SD * rng.normal(size=n) + _TYPE_SD * rng.normal(size=(len(FINE_TYPES), n))
    shares = np.exp(level)
    return BACKGROUND_SHARE * shares / shares.sum(1, keepdims=True)


def broad_profiles(organ: str) -> pd.DataFrame:
    """The planted mean profile of every fine type over the broad panel: (22 types, 2,000 genes), rows sum to 1."""
    known = (1 - BACKGROUND_SHARE) * profiles(organ).to_numpy()
    values = np.hstack([known, background_profiles()])
    return pd.DataFrame(values, index=pd.Index(FINE_TYPES, name="cell_type"), columns=list(broad_genes()))


@cache
def spot_sensitivity(strength: float) -> np.ndarray:
    """How well spots and bulk catch each gene: (2000,) log-normal, SD `strength`, the same everywhere."""
    return np.exp(strength * np.random.default_rng([_WORLD, 2]).normal(size=N_GENES))


@cache
def platform(strength: float) -> np.ndarray:
    """How well the single-cell platform catches each gene: (2000,) log-normal, SD `strength`, unlike the spots'."""
    return np.exp(strength * np.random.default_rng([_WORLD, 3]).normal(size=N_GENES))
