"""Put cells into a laid-out section: in single file along walls, packed in nests, strewn in the stroma, on rims of fat.

Each of the four proposes spots with a pitch (the room a cell wants), a claim (who wins when two are too close) and the
number of a mixture its type is drawn from. One walk keeps the spots apart, one draw types them, one push settles them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stpath_core.tissue.cell_types import FINE_TYPES, REGIONS, SUPER_CLASSES, SUPER_INDEX
from stpath_core.tissue.fields import along_contours, keep_apart, lattice, nearest, sample, smooth_noise
from stpath_core.tissue.nuclei import crowded, draw_nuclei, settle
from stpath_core.tissue.organs import Mix
from stpath_core.tissue.patients import Patient
from stpath_core.tissue.structures import GRID_UM, Layout

_BASAL_UM = 2.4  # depth of the myoepithelial layer
_BASAL_PITCH_UM = 13.0
_MUSCLE_PITCH_UM = 13.0
_MUSCULAR = {"smooth_muscle": 12, "fibroblast": 1, "endothelial": 0.5, "mast": 0.3, "t_cd4": 0.4, "macrophage": 0.3}
_SUPER = np.array([SUPER_INDEX[name] for name in FINE_TYPES])
_, _TUMOUR, _ROUND, _SPINDLE = (np.equal(_SUPER, k) for k in range(len(SUPER_CLASSES)))


class _Mixes:
    """Mixtures of cell types by number, so that all cells are typed in one draw."""

    def __init__(self):
        self.rows: list[np.ndarray] = []

    def add(self, mix: Mix) -> int:
        weights = np.array([mix.get(name, 0.0) for name in FINE_TYPES])
        self.rows.append(np.cumsum(weights / weights.sum()))
        return len(self.rows) - 1

    def of(self, structures: pd.DataFrame) -> np.ndarray:
        """Mixture number of each structure's own cells."""
        number = {id(recipe): self.add(recipe.cells) for recipe in {id(r): r for r in structures.recipe}.values()}
        return np.array([number[id(recipe)] for recipe in structures.recipe])

    def draw(self, rng: np.random.Generator, which: np.ndarray) -> np.ndarray:
        return (np.array(self.rows)[which] < rng.random(len(which))[:, None]).sum(1).clip(0, len(FINE_TYPES) - 1)


def populate(
    rng: np.random.Generator, traits: Patient, layout: Layout, *, size_um: tuple[float, float]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Cells of one section (index cell_id 1..N: place, structure, nuclear parameters) and their type codes (N,)."""
    mixes = _Mixes()
    parts = [
        _layers(rng, layout, mixes), _inside(rng, layout, mixes, size_um),
        _stroma(rng, traits, layout, mixes, size_um), _fat(rng, layout, mixes),
    ]  # fmt: skip
    spots = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)  # of nothing, no types
    width, height = size_um
    spots = spots[spots.x_um.between(2, width - 2) & spots.y_um.between(2, height - 2)]
    spots = spots[keep_apart(spots[["x_um", "y_um"]].to_numpy(), spots.pitch.to_numpy(), spots.claim.to_numpy())]
    spots = spots.reset_index(drop=True)
    code = mixes.draw(rng, spots.mix.to_numpy())
    size = traits.nuclear_size * traits.plan.nuclear_size
    size = size * np.where(_TUMOUR[code], traits.plan.tumour_size * traits.grade, 1)
    size = np.where(_ROUND[code], np.sqrt(size), size)  # leukocytes are the same everywhere, almost
    nuclei = draw_nuclei(rng, code, size=size, traits=traits)
    cells = pd.concat([spots[["x_um", "y_um", "structure"]], nuclei], axis=1)
    fibre = nearest(layout.fibre, spots.x_um.to_numpy(), spots.y_um.to_numpy(), grid_um=GRID_UM)
    angle = np.where(_SPINDLE[code] & ~spots.layered, fibre, spots.angle)
    spread = np.where(_ROUND[code], 3.0, np.where(_SPINDLE[code], 0.2, spots.spread))
    cells["angle"] = (angle + spread * rng.standard_normal(len(cells))).astype(np.float32)
    kept = ~crowded(cells)
    cells, code = cells[kept].reset_index(drop=True), code[kept]
    cells[["x_um", "y_um"]] = settle(cells).clip([2, 2], [width - 2, height - 2])
    cells.index = pd.RangeIndex(1, len(cells) + 1, name="cell_id")
    return cells, code


def _layers(rng: np.random.Generator, layout: Layout, mixes: _Mixes) -> pd.DataFrame:
    """Cells in single file: the main layer of every wall, radially; flat ones beneath it, in vessels and septa."""
    table = layout.structures
    n, kind = len(table), table.kind.to_numpy()
    tumour = table.region.isin(["invasive", "in_situ"]).to_numpy()
    flat = np.isin(kind, ["vessel", "alveolus", "glomerulus"])
    basal = np.full(n, mixes.add({"basal_myoepithelial": 1}))
    layers = [  # depth, pitch, which structures, mixture, lying flat, sway of depth, claim
        (table.layer_um, table.pitch_um, ~np.isin(kind, ["solid", "fat"]), mixes.of(table), flat,
         np.where(flat, 0.3, np.where(tumour, 2.2, 1.1)), 3),
        (np.full(n, _BASAL_UM), np.full(n, _BASAL_PITCH_UM), table.basal.to_numpy() > 0, basal, np.ones(n, bool),
         np.full(n, 0.3), 2),
    ]  # fmt: skip
    parts = []
    for depth_um, pitch_um, chosen, mix, lying, sway_um, claim in layers:
        depth_um, pitch_um = np.asarray(depth_um, np.float32), np.asarray(pitch_um, np.float32)
        level = np.where(chosen, depth_um, 1e3).astype(np.float32)[layout.structure]
        line = along_contours(layout.depth - level, pitch_um=pitch_um[layout.structure], grid_um=GRID_UM, rng=rng)
        owner = nearest(layout.structure, line[:, 0], line[:, 1], grid_um=GRID_UM)
        line, owner = line[chosen[owner]], owner[chosen[owner]]
        sway = rng.normal(0, sway_um[owner])
        parts.append(pd.DataFrame({
            "x_um": line[:, 0] + sway * line[:, 2], "y_um": line[:, 1] + sway * line[:, 3], "structure": owner,
            "angle": np.arctan2(line[:, 3], line[:, 2]) + np.where(lying[owner], np.pi / 2, 0), "spread": 0.22,
            "pitch": np.minimum(0.78 * pitch_um[owner], 9.0 if claim == 3 else 5.5), "mix": mix[owner],
            "layered": lying[owner], "claim": claim + rng.random(len(owner)),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _inside(rng: np.random.Generator, layout: Layout, mixes: _Mixes, size_um: tuple[float, float]) -> pd.DataFrame:
    """Cells that fill nests, filled ducts and glomerular tufts; candidates are dense, `keep_apart` thins them."""
    table = layout.structures
    x, y = lattice(rng, size_um, pitch_um=4.2, jitter=0.4).T
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    depth, lumen = (sample(f, x, y, grid_um=GRID_UM) for f in (layout.depth, layout.lumen))
    start = np.where(table.kind == "glomerulus", 13.0, 0.75 * table.layer_um)  # a tuft begins behind its capsule
    here = (table.filled.to_numpy()[owner] > 0) & (depth > start[owner]) & (lumen < -2)
    x, y, owner = x[here], y[here], owner[here]
    return pd.DataFrame({
        "x_um": x, "y_um": y, "structure": owner, "angle": _inward(layout, x, y) + rng.normal(0, 0.8, len(x)),
        "spread": np.where(depth[here] < 9, 0.5, 1.0), "mix": mixes.of(table)[owner], "layered": True,
        "pitch": 0.92 * table.pitch_um.to_numpy()[owner] * np.exp(rng.normal(0, 0.16, len(x))),
        "claim": 1 + rng.random(len(x)),
    })  # fmt: skip


def _stroma(
    rng: np.random.Generator, traits: Patient, layout: Layout, mixes: _Mixes, size_um: tuple[float, float]
) -> pd.DataFrame:
    """Cells between the structures: sparse along the fibres, dense in immune aggregates, patchy everywhere."""
    x, y = lattice(rng, size_um, pitch_um=4.6, jitter=0.4).T
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    keep = (sample(layout.depth, x, y, grid_um=GRID_UM) < -2.2) & (layout.structures.kind.to_numpy()[owner] != "fat")
    x, y = x[keep], y[keep]
    mix, pitch = np.zeros(len(REGIONS), int), np.full(len(REGIONS), 17.0)
    for name, compartment in traits.plan.compartments.items():
        mix[REGIONS.index(name)] = mixes.add(compartment.stroma)
        pitch[REGIONS.index(name)] = compartment.stroma_pitch_um
    territory = nearest(layout.territory, x, y, grid_um=GRID_UM)
    muscle = sample(layout.muscle, x, y, grid_um=GRID_UM) > 0
    patchy = np.exp(0.28 * smooth_noise(rng, layout.depth.shape, scale_px=14 / GRID_UM))
    return pd.DataFrame({
        "x_um": x, "y_um": y, "structure": -1, "angle": 0.0, "spread": 0.3, "layered": False,
        "pitch": 0.85 * np.where(muscle, _MUSCLE_PITCH_UM, pitch[territory]) * sample(patchy, x, y, grid_um=GRID_UM),
        "mix": np.where(muscle, mixes.add(_MUSCULAR), mix[territory]), "claim": rng.random(len(x)),
    })  # fmt: skip


def _fat(rng: np.random.Generator, layout: Layout, mixes: _Mixes) -> pd.DataFrame:
    """One flat nucleus on the rim of every fat cell."""
    fat = layout.structures[layout.structures.kind == "fat"]
    x, y = fat.x_um.to_numpy(), fat.y_um.to_numpy()
    heading = rng.uniform(0, 2 * np.pi, len(fat))
    for _ in range(40):  # walk from the middle to the rim
        stride = 2.0 * (sample(layout.depth, x, y, grid_um=GRID_UM) > 0.3)
        x, y = x + stride * np.cos(heading), y + stride * np.sin(heading)
    return pd.DataFrame({
        "x_um": x, "y_um": y, "structure": fat.index, "angle": _inward(layout, x, y) + np.pi / 2, "spread": 0.1,
        "pitch": 9.0, "mix": mixes.add({"adipocyte": 1}), "layered": True, "claim": 4 + rng.random(len(fat)),
    })  # fmt: skip


def _inward(layout: Layout, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
    """Direction (radians) from a structure's outline to its middle, at points."""
    gy, gx = np.gradient(layout.depth)
    return np.arctan2(sample(gy, x_um, y_um, grid_um=GRID_UM), sample(gx, x_um, y_um, grid_um=GRID_UM))
