"""From an organ's plan to a map: territories, and in them glands, nests, fat cells and vessels with walls and lumens.

Every structure is a star-shaped blob around a seed point. Where blobs meet they share the space like soap bubbles, a
gap of stroma apart; the section's plane is warped first, so that no outline is a perfect ellipse. What remains of it is
a handful of smooth fields on a 2 um grid, from which cells and pixels later read where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from stpath_core.tissue.cell_types import REGIONS
from stpath_core.tissue.fields import keep_apart, lattice, nearest, smooth_noise
from stpath_core.tissue.organs import CAPILLARY, VESSEL, Organ, Structure

GRID_UM = 2.0
TERRITORY_UM = 95.0  # scale of the map of regions
KINDS = ("gland", "solid", "alveolus", "fat", "vessel", "glomerulus")
_PAD_UM = 120.0
_AT_ONCE = 8192  # points
_TRAITS = ("gap_um", "height_um", "folds", "layer_um", "pitch_um", "basal", "filled", "holes", "clear", "mucin")


@dataclass(frozen=True)
class Layout:
    """Fields on the grid, all (gh, gw): centres of grid cells lie at (index + 0.5) * GRID_UM."""

    territory: np.ndarray  # uint8 region code of the compartment, whatever stands there
    structure: np.ndarray  # int32 row of `structures` that is nearest
    depth: np.ndarray  # float32 um inside the nearest structure's outline; negative outside
    lumen: np.ndarray  # float32 um inside a lumen; negative in tissue
    fibre: np.ndarray  # float32 direction of the fibres, radians
    muscle: np.ndarray  # float32, positive where the stroma is smooth muscle
    structures: pd.DataFrame  # one row per structure: recipe, kind, region, place, size, wall


def lay_out(
    rng: np.random.Generator, plan: Organ, *, size_um: tuple[float, float], territory_um: float = TERRITORY_UM
) -> Layout:
    """Draw one section of an organ."""
    shape = tuple(int(np.ceil(s / GRID_UM)) for s in size_um[::-1])
    territory = _territories(rng, plan, shape, territory_um)
    structures = _strew(rng, plan, territory, size_um)
    structure, edge = _bubbles(rng, structures, territory, shape)
    slope = np.hypot(*np.gradient(edge)) / GRID_UM
    depth = (edge / np.clip(ndi.uniform_filter(slope, 5), 0.6, 1.6)).astype(np.float32)
    lumen, depth = _lumens(rng, structures, structure, depth)
    muscle = _muscle(rng, plan, territory)
    return Layout(territory, structure, depth, lumen, _fibre(rng, depth), muscle, structures)


def _muscle(rng: np.random.Generator, plan: Organ, territory: np.ndarray) -> np.ndarray:
    """(gh, gw) float32, positive in about the share of each compartment's stroma that is smooth muscle."""
    share = np.array([getattr(plan.compartments.get(region), "muscle", 0.0) for region in REGIONS])[territory]
    bundles = smooth_noise(rng, territory.shape, scale_px=45 / GRID_UM) + 3.2 * (share - 0.5)
    return np.where(share > 0, bundles, -1).astype(np.float32)


def _territories(rng: np.random.Generator, plan: Organ, shape: tuple[int, int], territory_um: float) -> np.ndarray:
    """Region codes: the compartment whose noise is highest, with heights set so that every one gets its share."""
    names = [name for name, compartment in plan.compartments.items() if compartment.share > 0]
    share = np.array([plan.compartments[name].share for name in names])
    share = share / share.sum()
    scale = min(territory_um / GRID_UM, 0.2 * min(shape))
    noise = np.stack([smooth_noise(rng, shape, scale_px=scale) for _ in names])  # (compartments, gh, gw)
    few = noise[:, ::5, ::5].reshape(len(names), -1)
    height = np.zeros(len(names), np.float32)
    for _ in range(60):
        got = np.bincount((few + height[:, None]).argmax(0), minlength=len(names)) / few.shape[1]
        height += 0.35 * np.log((share + 0.01) / (got + 0.01)).astype(np.float32)
    codes = np.array([REGIONS.index(name) for name in names], np.uint8)
    return codes[(noise + height[:, None, None]).argmax(0)]


def _strew(rng: np.random.Generator, plan: Organ, territory: np.ndarray, size_um: tuple[float, float]) -> pd.DataFrame:
    """Seeds of all structures, each inside its own territory; large ones first, small ones where room is left."""
    tables = []
    for region, compartment in plan.compartments.items():
        vessels = () if region == "adipose" else (CAPILLARY,) if region == "gland" else (VESSEL, CAPILLARY)
        for recipe in (*compartment.structures, *vessels):
            xy = lattice(rng, size_um, pitch_um=recipe.spacing_um, jitter=0.13, pad_um=_PAD_UM)
            xy = xy[nearest(territory, *xy.T, grid_um=GRID_UM) == REGIONS.index(region)]
            tables.append(_seeds(rng, recipe, xy, region))
    table = pd.concat(tables, ignore_index=True)
    reach = table.radius_um * np.where(table.kind == "vessel", 2.6, 1.25)
    table = table[keep_apart(table[["x_um", "y_um"]].to_numpy(), reach.to_numpy(), table.radius_um.to_numpy())]
    return table.reset_index(drop=True)


def _seeds(rng: np.random.Generator, recipe: Structure, xy: np.ndarray, region: str) -> pd.DataFrame:
    n = len(xy)
    spread = rng.standard_normal((2, n))
    table = {"x_um": xy[:, 0], "y_um": xy[:, 1], "kind": recipe.kind, "region": region}
    table["recipe"] = np.full(n, recipe, object)
    table["radius_um"] = recipe.radius_um * np.exp(recipe.radius_sd * spread[0])
    table["stretch"] = recipe.stretch ** (1 + 0.6 * spread[1]).clip(0, 2.5)
    table["angle"] = rng.uniform(0, np.pi, n)
    for m in range(2, 6):
        table[f"wave{m}"] = recipe.wobble * rng.normal(0, 1.6 / m, n)
        table[f"turn{m}"] = rng.uniform(0, 2 * np.pi, n)
    return pd.DataFrame(table | {trait: float(getattr(recipe, trait)) for trait in _TRAITS})


def _bubbles(rng: np.random.Generator, table: pd.DataFrame, territory: np.ndarray, shape: tuple[int, int]) -> tuple:
    """(gh, gw) index of the nearest structure, and the signed distance (um, roughly) inside its outline."""
    y, x = (np.indices(shape, dtype=np.float32) + 0.5) * GRID_UM
    rough = np.where(territory == REGIONS.index("invasive"), 1.0, 0.45).astype(np.float32)
    rough = ndi.uniform_filter(rough, 15)
    warp = [sum(a * smooth_noise(rng, shape, scale_px=s / GRID_UM) for a, s in ((5.0, 30.0), (1.6, 9.0))) for _ in "xy"]
    place = np.stack([x + rough * warp[0], y + rough * warp[1]], -1).reshape(-1, 2)
    near = min(6, len(table))
    order = cKDTree(table[["x_um", "y_um"]]).query(place, k=near)[1].reshape(-1, near)
    waves = [f"{name}{m}" for m in range(2, 6) for name in ("wave", "turn")]
    traits = table[["x_um", "y_um", "radius_um", "stretch", "angle", *waves]].to_numpy(np.float32)
    index, edge = np.empty(len(place), np.intp), np.empty(len(place), np.float32)
    for start in range(0, len(place), _AT_ONCE):  # what fits a cache is done at once
        part = slice(start, start + _AT_ONCE)
        index[part], edge[part] = _nearest_bubble(place[part], order[part], traits, table.gap_um.to_numpy(np.float32))
    return index.reshape(shape).astype(np.int32), edge.reshape(shape)


def _nearest_bubble(place: np.ndarray, order: np.ndarray, traits: np.ndarray, gap_um: np.ndarray) -> tuple:
    """Of points (n, 2): which of the bubbles `order` (n, near) is nearest, and the signed distance inside it (um)."""
    seeds = traits[order]  # (n, near, 5 + 4 x (wave, turn))
    dx, dy = place[:, None, 0] - seeds[..., 0], place[:, None, 1] - seeds[..., 1]
    cos, sin, stretch = np.cos(seeds[..., 4]), np.sin(seeds[..., 4]), np.sqrt(seeds[..., 3])
    u, v = (cos * dx + sin * dy) / stretch, (cos * dy - sin * dx) * stretch
    theta = np.arctan2(v, u)
    radius = seeds[..., 2].copy()
    for m in range(2, 6):
        wave, turn = seeds[..., 2 * m + 1], seeds[..., 2 * m + 2]
        radius *= 1 + wave * np.cos(m * theta + turn)
    outside = np.hypot(u, v) - radius
    rank = np.argpartition(outside, min(1, order.shape[1] - 1), axis=1)[:, :2]
    two = np.take_along_axis(outside, rank, 1)
    first = two.argmin(1)
    best = two.min(1)
    index = np.take_along_axis(np.take_along_axis(order, rank, 1), first[:, None], 1)[:, 0]
    return index, np.minimum(-best, 0.5 * (two.max(1) - best - gap_um[index]))


def _lumens(rng: np.random.Generator, table: pd.DataFrame, structure: np.ndarray, depth: np.ndarray) -> tuple:
    """(gh, gw) um inside a lumen (negative in tissue), and the depth again, now 0 in the stromal core of folds.

    A lumen starts where the epithelium's height ends. Folds raise the wall by an amount read at the foot of the normal,
    so that they are ridges of the wall and never islands. Filled structures get round holes, glomeruli a capsule.
    """
    shape = depth.shape
    trait = {name: table[name].to_numpy(np.float32)[structure] for name in ("height_um", "folds", "holes")}
    kind = table.kind.map(KINDS.index).to_numpy()[structure]
    row, column = np.indices(shape, dtype=np.float32)
    gy, gx = np.gradient(ndi.uniform_filter(depth, 5))
    steep = np.hypot(gy, gx) + 1e-3
    foot = [(q - g / steep * depth / GRID_UM).round().astype(int).clip(0, n - 1)
            for q, g, n in zip((row, column), (gy, gx), shape, strict=True)]  # fmt: skip
    ripple = smooth_noise(rng, shape, scale_px=9 / GRID_UM)
    fold = ndi.uniform_filter(ripple[*foot], 3).clip(-0.3, 1.8)
    lumen = depth - trait["height_um"] * (1 + trait["folds"] * fold) - 0.8 * ripple
    lumen /= np.clip(np.hypot(*np.gradient(lumen)) / GRID_UM, 1, 3)
    hole = 6.0 * (smooth_noise(rng, shape, scale_px=20 / GRID_UM) - (1.65 - 4 * trait["holes"]))
    lumen = np.where(trait["holes"] > 0, np.minimum(depth - 11, hole), lumen)
    thin = np.isin(kind, [KINDS.index("alveolus"), KINDS.index("fat")])
    lumen = np.where(thin, depth - trait["height_um"], lumen)
    capsule = np.minimum(depth - 3.5, 10.5 + 1.5 * ripple - depth)
    lumen = np.where(kind == KINDS.index("glomerulus"), capsule, lumen).astype(np.float32)
    folded = (kind == KINDS.index("gland")) & (lumen < 0)
    return lumen, np.where(folded, np.minimum(depth, trait["height_um"] + 2 + lumen), depth).astype(np.float32)


def _fibre(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Direction of the fibres: around structures near them, in sweeping curves far from them.

    They follow the level lines of a stream function, which turns from distance to a smooth noise.
    """
    diagonal = int(np.ceil(np.hypot(*depth.shape))) + 2
    sweep = 36 * smooth_noise(rng, (diagonal, diagonal), scale_px=(85 / GRID_UM, 300 / GRID_UM))
    sweep += 0.7 * GRID_UM * np.arange(diagonal, dtype=np.float32)[:, None]
    sweep = ndi.rotate(sweep, rng.uniform(0, 180), reshape=False, order=1, mode="reflect")
    top, left = ((diagonal - n) // 2 for n in depth.shape)
    sweep = sweep[top : top + depth.shape[0], left : left + depth.shape[1]]
    away = np.maximum(-depth, 0)
    near = np.exp(-away / 14)
    gy, gx = np.gradient(ndi.uniform_filter(near * 1.6 * away + (1 - near) * sweep, 7))
    return np.arctan2(gx, -gy).astype(np.float32)
