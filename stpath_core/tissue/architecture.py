"""Grow one section of tissue: territories, structures, cells, nuclei. Bit for bit from (organ, size, patient, seed)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stpath_core.errors import InputError
from stpath_core.tissue.cell_types import CELL_TYPES, FINE_TYPES, ORGANS, REGIONS, SUPER_CLASSES, SUPER_INDEX
from stpath_core.tissue.fields import nearest
from stpath_core.tissue.nuclei import cell_outlines, outlines
from stpath_core.tissue.organs import ORGAN_PLANS, Mix
from stpath_core.tissue.patients import Patient, patient_traits
from stpath_core.tissue.populate import populate
from stpath_core.tissue.structures import GRID_UM, TERRITORY_UM, Layout, lay_out

_CELL_REACH = np.array([CELL_TYPES[name].cytoplasm.radius_um for name in FINE_TYPES], np.float32)
_SUPER = np.array([SUPER_INDEX[name] for name in FINE_TYPES])
_TUMOUR_MARGIN_UM = 8.0  # stroma so close to tumour counts to the tumour's region


@dataclass(frozen=True)
class Architecture:
    """One grown section. Positions are (x, y) in um from the upper left corner; grids hold (index + .5) grid_um."""

    organ: str
    patient: int
    seed: int
    size_um: tuple[float, float]
    grid_um: float
    region: np.ndarray  # (gh, gw) uint8 codes of REGIONS
    cells: pd.DataFrame  # index cell_id 1..N; x_um, y_um, cell_type, super_class, region, structure, nuclear parameters
    nuclei_um: np.ndarray  # (N, 32, 2) float32 polygons
    cells_um: np.ndarray  # (N, 32, 2) float32 polygons
    layout: Layout  # the fields the renderer reads
    traits: Patient


def grow(
    organ: str, *, size_um: tuple[float, float], seed: int, patient: int = 0, mixture: Mix | None = None,
    territory_um: float = TERRITORY_UM, composition: float = 1.0,
) -> Architecture:  # fmt: skip
    """Grow one section.

    size_um : (width, height), at least 100 um each. patient : sections of one patient share its traits.
    mixture : region -> share of the area, for those regions that should not follow the patient; 0: none of it.
    territory_um : scale of the map of regions. composition : how far patients differ in what their regions hold, as a
    multiple (0: not at all).

    >>> grow("colon", size_um=(300, 200), seed=0).nuclei_um.shape[1:]
    (32, 2)
    """
    if organ not in ORGAN_PLANS:
        msg = f"organ={organ!r} is unknown; choose one of {', '.join(ORGAN_PLANS)}"
        raise InputError(msg)
    if min(size_um) < 100:
        msg = f"size_um={tuple(size_um)} is too small for a section; give at least (100, 100) micrometres"
        raise InputError(msg)
    size_um = (float(size_um[0]), float(size_um[1]))
    traits = patient_traits(organ, patient, mixture=mixture, composition=composition)
    rng = np.random.default_rng([ORGANS.index(organ), patient, seed, 12])
    layout = lay_out(rng, traits.plan, size_um=size_um, territory_um=territory_um)
    cells, code = populate(rng, traits, layout, size_um=size_um)
    nuclei_um = outlines(cells)
    inward = np.maximum(-nuclei_um.min(1), 0) - np.maximum(nuclei_um.max(1) - np.array(size_um, np.float32), 0)
    nuclei_um += inward[:, None]  # no nucleus is cut by the border
    cells[["x_um", "y_um"]] += inward
    cells_um = cell_outlines(nuclei_um, _CELL_REACH[code], size_um=size_um)
    region = _regions(layout)
    here = nearest(region, cells.x_um.to_numpy(), cells.y_um.to_numpy(), grid_um=GRID_UM)
    cells["cell_type"] = pd.Categorical.from_codes(code, FINE_TYPES)
    cells["super_class"] = pd.Categorical.from_codes(_SUPER[code], SUPER_CLASSES)
    cells["region"] = pd.Categorical.from_codes(here, REGIONS)
    return Architecture(organ, patient, seed, size_um, GRID_UM, region, cells, nuclei_um, cells_um, layout, traits)


def _regions(layout: Layout) -> np.ndarray:
    """(gh, gw) uint8: lumens are background; structures, and stroma close to tumour, take the structure's region."""
    own = layout.structures.region.map(REGIONS.index).to_numpy(np.uint8)[layout.structure]
    kind = layout.structures.kind.to_numpy()[layout.structure]
    tumour = np.isin(own, [REGIONS.index("invasive"), REGIONS.index("in_situ")])
    kept = np.isin(layout.territory, [REGIONS.index("immune"), REGIONS.index("adipose")])
    stroma = np.where(kept, layout.territory, REGIONS.index("connective"))
    region = np.where((layout.depth > np.where(tumour, -_TUMOUR_MARGIN_UM, 0)) & (kind != "vessel"), own, stroma)
    return np.where((layout.lumen > 0) & (kind != "fat"), 0, region).astype(np.uint8)
