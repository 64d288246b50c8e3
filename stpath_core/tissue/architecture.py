"""Grow one section of tissue: territories, structures, cells, nuclei. Bit for bit from (organ, size, patient, seed)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from stpath_core.errors import InputError
from stpath_core.tissue.cell_types import CELL_TYPES, FINE_TYPES, ORGANS, REGIONS, SUPER_CLASSES, SUPER_INDEX
from stpath_core.tissue.fields import along_contours, keep_apart, lattice, nearest, sample, smooth_noise
from stpath_core.tissue.nuclei import cell_outlines, crowded, draw_nuclei, outlines, settle
from stpath_core.tissue.organs import ORGAN_PLANS, Mix, Organ
from stpath_core.tissue.structures import GRID_UM, Layout, lay_out

_BASAL_UM = 2.4  # depth of the myoepithelial layer
_CELL_REACH = np.array([CELL_TYPES[name].cytoplasm.radius_um for name in FINE_TYPES], np.float32)
_SUPER = np.array([SUPER_INDEX[name] for name in FINE_TYPES])
_TUMOUR, _ROUND, _SPINDLES = (_SUPER == SUPER_CLASSES.index(c) for c in ("neoplastic", "inflammatory", "connective"))


@dataclass(frozen=True)
class Patient:
    """What one patient's sections share."""

    plan: Organ  # the organ's plan with this patient's shares and mixtures
    nuclear_size: float  # factor on all nuclear areas
    grade: float  # factor on neoplastic nuclear areas
    pleomorphism: float  # factor on the spread of neoplastic nuclei
    open_chromatin: float  # added to how vesicular nuclei are
    basophilia: float  # factor on the hematoxylin of the cytoplasm
    collagen: float  # factor on the density of fibres
    clefts: float  # 0 to 1: how far tumour cells shrink from each other and from their stroma
    vacuoles: float  # 0 to 1.5: how often the cytoplasm is punched by small vacuoles


@dataclass(frozen=True)
class Architecture:
    """One grown section. Positions are (x, y) in um from the upper left corner; grids are read at (index + .5) grid_um."""

    organ: str
    patient: int
    seed: int
    size_um: tuple[float, float]
    grid_um: float
    region: np.ndarray  # (gh, gw) uint8 codes of REGIONS
    cells: pd.DataFrame  # index cell_id 1..N; place, types, structure, nuclear parameters
    nuclei_um: np.ndarray  # (N, 32, 2) float32 polygons
    cells_um: np.ndarray  # (N, 32, 2) float32 polygons
    layout: Layout  # the fields the renderer reads
    traits: Patient


def patient_traits(organ: str, patient: int, *, mixture: Mix | None = None) -> Patient:
    """Draw what is the patient's own: how much of what there is, nuclear grade, stroma. The same for every section.

    mixture : region -> share of the section's area; replaces the patient's own for the regions named.
    """
    rng = np.random.default_rng([ORGANS.index(organ), patient, 11])
    plan = ORGAN_PLANS[organ]
    shares = np.array([c.share for c in plan.compartments.values()])
    shares = rng.dirichlet(30 * shares / shares.sum()).clip(0.04)
    compartments = {}
    for share, (region, c) in zip(shares, plan.compartments.items(), strict=True):
        share = (mixture or {}).get(region, share)
        stroma = dict(zip(c.stroma, rng.dirichlet(60 * np.array([*c.stroma.values()]) / sum(c.stroma.values())), strict=True))
        scale = np.exp(rng.normal(0, 0.1))
        structures = tuple(
            replace(s, cells=dict(zip(s.cells, rng.dirichlet(80 * np.array([*s.cells.values()]) / sum(s.cells.values())), strict=True)),
                    radius_um=s.radius_um * scale, spacing_um=s.spacing_um * scale,
                    stretch=s.stretch ** rng.uniform(0.5, 1.8), gap_um=s.gap_um * np.exp(rng.normal(0, 0.25)))
            for s in c.structures
        )  # fmt: skip
        compartments[region] = replace(c, share=float(share), stroma=stroma, structures=structures)
    size, grade, wild, blue, fibre = np.exp(rng.normal([0, 0, 0, 0.2, 0], [0.10, 0.14, 0.25, 0.45, 0.25])).tolist()
    return Patient(replace(plan, compartments=compartments), size, grade, wild, float(rng.normal(0, 0.15)), min(max(blue, 0.5), 2.2), fibre, float(rng.beta(0.7, 1.2)), float(rng.uniform(0, 1.5)))


def grow(organ: str, *, size_um: tuple[float, float], seed: int, patient: int = 0, mixture: Mix | None = None) -> Architecture:
    """Grow one section.

    size_um : (width, height), at least 100 um each. patient : sections of one patient share its traits.
    """
    if organ not in ORGAN_PLANS:
        msg = f"organ={organ!r} is unknown; choose one of {', '.join(ORGAN_PLANS)}"
        raise InputError(msg)
    if min(size_um) < 100:
        msg = f"size_um={tuple(size_um)} is too small for a section; give at least (100, 100) micrometres"
        raise InputError(msg)
    traits = patient_traits(organ, patient, mixture=mixture)
    rng = np.random.default_rng([ORGANS.index(organ), patient, seed, 12])
    layout = lay_out(rng, traits.plan, size_um=size_um)
    region = _regions(layout)
    cells = _populate(rng, traits, layout, region, size_um)
    nuclei_um = outlines(cells)
    limit = np.array(size_um, np.float32)
    inward = np.maximum(-nuclei_um.min(1), 0) - np.maximum(nuclei_um.max(1) - limit, 0)  # no nucleus is cut by the border
    nuclei_um += inward[:, None]
    cells[["x_um", "y_um"]] += inward
    cells_um = cell_outlines(nuclei_um, _CELL_REACH[cells.code], size_um=size_um)
    code = cells.pop("code").to_numpy()
    cells["cell_type"] = pd.Categorical.from_codes(code, FINE_TYPES)
    cells["super_class"] = pd.Categorical.from_codes(_SUPER[code], SUPER_CLASSES)
    code = nearest(region, cells.x_um.to_numpy(), cells.y_um.to_numpy(), grid_um=GRID_UM)
    cells["region"] = pd.Categorical.from_codes(code, REGIONS)
    size_um = (float(size_um[0]), float(size_um[1]))
    return Architecture(organ, patient, seed, size_um, GRID_UM, region, cells, nuclei_um, cells_um, layout, traits)


def _regions(layout: Layout) -> np.ndarray:
    """(gh, gw) uint8: lumens are background, structures and their close stroma take the structure's region."""
    own = layout.structures.region.map(REGIONS.index).to_numpy(np.uint8)[layout.structure]
    kind = layout.structures.kind.to_numpy()[layout.structure]
    tumour = np.isin(own, [REGIONS.index("invasive"), REGIONS.index("in_situ")])
    stroma = np.where(np.isin(layout.territory, [REGIONS.index(r) for r in ("immune", "adipose")]), layout.territory, 1)
    region = np.where((layout.depth > np.where(tumour, -8, 0)) & (kind != "vessel"), own, stroma)
    return np.where((layout.lumen > 0) & (kind != "fat"), 0, region).astype(np.uint8)


class _Mixes:
    """Mixtures of cell types by number, so that a million cells can be typed in one draw."""

    def __init__(self):
        self.rows: list[np.ndarray] = []

    def add(self, mix: Mix) -> int:
        weights = np.array([mix.get(name, 0.0) for name in FINE_TYPES])
        self.rows.append(np.cumsum(weights / weights.sum()))
        return len(self.rows) - 1

    def draw(self, rng: np.random.Generator, which: np.ndarray) -> np.ndarray:
        return (np.array(self.rows)[which] < rng.random(len(which))[:, None]).sum(1).clip(0, len(FINE_TYPES) - 1)


def _populate(rng: np.random.Generator, traits: Patient, layout: Layout, region: np.ndarray, size_um: tuple) -> pd.DataFrame:
    mixes = _Mixes()
    spots = pd.concat(
        [_layers(rng, layout, mixes), _inside(rng, layout, mixes, size_um), _stroma(rng, traits, layout, mixes, size_um),
         _fat(rng, layout, mixes)], ignore_index=True,
    )  # fmt: skip
    width, height = size_um
    spots = spots[spots.x_um.between(2, width - 2) & spots.y_um.between(2, height - 2)]
    spots = spots[keep_apart(spots[["x_um", "y_um"]].to_numpy(), spots.pitch.to_numpy(), spots.claim.to_numpy())]
    spots = spots.reset_index(drop=True)
    code = mixes.draw(rng, spots.mix.to_numpy())
    plan = traits.plan
    size = traits.nuclear_size * plan.nuclear_size * np.where(_TUMOUR[code], plan.tumour_size * traits.grade, 1)
    size = np.where(_ROUND[code], np.sqrt(size), size)
    nuclei = draw_nuclei(rng, code, size=size, pleomorphism=traits.pleomorphism, open_chromatin=traits.open_chromatin)
    cells = pd.concat([spots[["x_um", "y_um", "structure"]], nuclei], axis=1)
    x, y = cells.x_um.to_numpy(), cells.y_um.to_numpy()
    fibre = nearest(layout.fibre, x, y, grid_um=GRID_UM)
    angle = np.where(_SPINDLES[code] & ~spots.layered, fibre, spots.angle)
    spread = np.where(_ROUND[code], 3.0, np.where(_SPINDLES[code], 0.2, spots.spread))
    cells["angle"] = (angle + spread * rng.standard_normal(len(cells))).astype(np.float32)
    cells["code"] = code
    cells = cells[~crowded(cells)].reset_index(drop=True)
    cells[["x_um", "y_um"]] = settle(cells).clip([2, 2], [width - 2, height - 2])
    cells.index = pd.RangeIndex(1, len(cells) + 1, name="cell_id")
    return cells


def _layers(rng: np.random.Generator, layout: Layout, mixes: _Mixes) -> pd.DataFrame:
    """Cells in single file: the main layer of every wall, radially, and the flat ones beneath it and around vessels."""
    table, at = layout.structures, layout.structure
    recipe_mix = _recipe_mixes(layout, mixes)
    basal_mix = mixes.add({"basal_myoepithelial": 1})
    kind = table.kind.to_numpy()
    hollow = ~np.isin(kind, ["solid", "fat"])
    parts = []
    tumour = table.region.isin(["invasive", "in_situ"]).to_numpy()
    flat = np.isin(kind, ["vessel", "alveolus", "glomerulus"])
    for depth_um, pitch, chosen, mix in (
        (table.layer_um.to_numpy(), table.pitch_um.to_numpy(), hollow, recipe_mix),
        (np.full(len(table), _BASAL_UM), np.full(len(table), 13.0), table.basal.to_numpy() > 0, np.full(len(table), basal_mix)),
    ):
        level = np.where(chosen, depth_um, 1e3).astype(np.float32)[at]
        line = along_contours(layout.depth - level, pitch_um=pitch.astype(np.float32)[at], grid_um=GRID_UM, rng=rng)
        x, y = line[:, 0], line[:, 1]
        owner = nearest(at, x, y, grid_um=GRID_UM)
        line, owner = line[chosen[owner]], owner[chosen[owner]]
        tangential = flat[owner] | (mix[owner] == basal_mix)
        stray = rng.normal(0, np.where(tangential, 0.3, np.where(tumour[owner], 2.2, 1.1)))
        parts.append(pd.DataFrame({
            "x_um": line[:, 0] + stray * line[:, 2], "y_um": line[:, 1] + stray * line[:, 3], "structure": owner,
            "angle": np.arctan2(line[:, 3], line[:, 2]) + np.where(tangential, np.pi / 2, 0), "spread": 0.22,
            "pitch": 0.78 * np.where(mix[owner] == basal_mix, 7.0, pitch[owner]), "mix": mix[owner], "layered": tangential,
            "claim": 2 + rng.random(len(owner)) + (mix[owner] != basal_mix),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _recipe_mixes(layout: Layout, mixes: _Mixes) -> np.ndarray:
    recipes = {id(r): r for r in layout.structures.recipe}
    number = {key: mixes.add(recipe.cells) for key, recipe in recipes.items()}
    return np.array([number[id(r)] for r in layout.structures.recipe])


def _inside(rng: np.random.Generator, layout: Layout, mixes: _Mixes, size_um: tuple) -> pd.DataFrame:
    """Cells that fill nests, filled ducts and glomerular tufts; candidates are dense, `keep_apart` thins them."""
    table = layout.structures
    x, y = lattice(rng, size_um, pitch_um=4.2, jitter=0.4).T
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    depth, lumen = (sample(f, x, y, grid_um=GRID_UM) for f in (layout.depth, layout.lumen))
    filled = table.filled.to_numpy()[owner] > 0
    tuft = table.kind.to_numpy()[owner] == "glomerulus"
    here = filled & (depth > np.where(tuft, 13, 0.75 * table.layer_um.to_numpy()[owner])) & (lumen < -2)
    x, y, owner = x[here], y[here], owner[here]
    gy, gx = np.gradient(layout.depth)
    edge = depth[here] < 9
    angle = np.arctan2(sample(gy, x, y, grid_um=GRID_UM), sample(gx, x, y, grid_um=GRID_UM))
    return pd.DataFrame({
        "x_um": x, "y_um": y, "structure": owner, "angle": angle, "spread": np.where(edge, 0.5, 1.0),
        "pitch": 0.92 * table.pitch_um.to_numpy()[owner] * np.exp(rng.normal(0, 0.16, len(x))),
        "mix": _recipe_mixes(layout, mixes)[owner], "layered": False, "claim": 1 + rng.random(len(x)),
    })  # fmt: skip


def _stroma(rng: np.random.Generator, traits: Patient, layout: Layout, mixes: _Mixes, size_um: tuple) -> pd.DataFrame:
    """Cells between the structures: sparse along the fibres, dense in immune aggregates, patchy everywhere."""
    x, y = lattice(rng, size_um, pitch_um=4.6, jitter=0.4).T
    depth = sample(layout.depth, x, y, grid_um=GRID_UM)
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    keep = (depth < -2.2) & (layout.structures.kind.to_numpy()[owner] != "fat")
    x, y = x[keep], y[keep]
    territory = nearest(layout.territory, x, y, grid_um=GRID_UM)
    muscle = sample(layout.muscle, x, y, grid_um=GRID_UM) > 0
    mix, pitch = np.zeros(len(REGIONS), int), np.full(len(REGIONS), 17.0)
    for name, compartment in traits.plan.compartments.items():
        mix[REGIONS.index(name)] = mixes.add(compartment.stroma)
        pitch[REGIONS.index(name)] = compartment.stroma_pitch_um
    muscular = mixes.add({"smooth_muscle": 12, "fibroblast": 1, "endothelial": 0.5, "mast": 0.3, "t_cd4": 0.4, "macrophage": 0.3})
    patchy = np.exp(0.28 * sample(smooth_noise(rng, layout.depth.shape, scale_px=14 / GRID_UM), x, y, grid_um=GRID_UM))
    return pd.DataFrame({
        "x_um": x, "y_um": y, "structure": -1, "angle": 0.0, "spread": 0.3,
        "pitch": np.where(muscle, 13.0, pitch[territory]) * patchy * 0.85,
        "mix": np.where(muscle, muscular, mix[territory]), "layered": False, "claim": rng.random(len(x)),
    })  # fmt: skip


def _fat(rng: np.random.Generator, layout: Layout, mixes: _Mixes) -> pd.DataFrame:
    """One flat nucleus on the rim of every fat cell."""
    fat = layout.structures[layout.structures.kind == "fat"]
    gy, gx = np.gradient(layout.depth)
    x, y = fat.x_um.to_numpy(), fat.y_um.to_numpy()
    heading = rng.uniform(0, 2 * np.pi, len(fat))
    for _ in range(40):  # walk from the middle to the rim
        inside = sample(layout.depth, x, y, grid_um=GRID_UM) > 0.3
        x, y = x + 2.0 * inside * np.cos(heading), y + 2.0 * inside * np.sin(heading)
    angle = np.arctan2(sample(gy, x, y, grid_um=GRID_UM), sample(gx, x, y, grid_um=GRID_UM)) + np.pi / 2
    return pd.DataFrame({
        "x_um": x, "y_um": y, "structure": fat.index, "angle": angle, "spread": 0.1, "pitch": 9.0,
        "mix": mixes.add({"adipocyte": 1}), "layered": True, "claim": 4 + rng.random(len(fat)),
    })  # fmt: skip
