"""What notebook 00 draws of the assays: one piece of tissue, or a few patients, under one effect at three strengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from stpath_core.expression import log_normalise
from stpath_core.tissue.architecture import Architecture, grow
from stpath_core.tissue.assay_card import COMPONENTS, mixing, pca
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.mixtures import region_shares
from stpath_core.tissue.spot_sections import TERRITORY_UM
from stpath_core.tissue.spots import PITCH_UM, SpotMeasurement, measure_spots, section_size, spot_array

STRENGTHS = {"off": 0.0, "default": 1.0, "double": 2.0}


def three_strengths(*names: str, base: AssayEffects | None = None) -> dict[str, AssayEffects]:
    """The named effects off, at their default and doubled, all others as in `base` (none: off).

    >>> [e.diffusion for e in three_strengths("diffusion").values()]
    [0.0, 0.3, 0.6]
    """
    default, base = AssayEffects(), AssayEffects.none() if base is None else base
    out = {}
    for label, factor in STRENGTHS.items():
        values = {name: factor * getattr(default, name) for name in names}
        values["diffusion_um"] = default.diffusion_um  # a distance means nothing without its share
        out[label] = replace(base, **values)
    return out


def grow_patients(
    n: int, *, across: int, seed: int = 0, effects: AssayEffects | None = None
) -> tuple[list[Architecture], np.ndarray, np.ndarray]:
    """`n` breast sections under an array of `across` x `across` spots; the array's xy_um (S, 2) and places (S, 2)."""
    effects = AssayEffects() if effects is None else effects
    xy_um, array = spot_array(across, across, pitch_um=PITCH_UM)
    size_um = section_size(across, across, pitch_um=PITCH_UM)
    shares = region_shares("breast", n, seed=seed, effects=effects)
    grown = [grow("breast", size_um=size_um, seed=seed, patient=k, mixture=mixture, territory_um=TERRITORY_UM)
             for k, mixture in enumerate(shares)]  # fmt: skip
    return grown, xy_um, array


def measure_patients(
    grown: list[Architecture], xy_um: np.ndarray, array: np.ndarray, *, effects: AssayEffects, seed: int = 0
) -> list[SpotMeasurement]:
    """One measurement per grown section."""
    return [measure_spots(arch, xy_um, array, effects=effects, seed=1000 * seed + k) for k, arch in enumerate(grown)]


def pooled(measured: list[SpotMeasurement]) -> Mapping[str, np.ndarray]:
    """Spots of several patients together: embedding (N, 30), patient and label (N,), total (N,), and mixing."""
    counts = np.vstack([m.counts.toarray() for m in measured])
    patient = np.repeat([f"p{k}" for k in range(len(measured))], [m.counts.shape[0] for m in measured])
    space = pca(log_normalise(counts))[:, :COMPONENTS]
    return {"embedding": space, "patient": patient, "label": np.concatenate([m.label for m in measured]),
            "total": counts.sum(1), "mixing": mixing(space, patient)}  # fmt: skip
