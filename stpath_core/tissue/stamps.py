"""Small bodies painted pixel by pixel around their centres: nuclei with their chromatin, vacuoles, red cells.

All bodies of similar size are painted together: (bodies, window pixels) arrays instead of a loop over bodies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.fields import lattice, nearest, sample
from stpath_core.tissue.nuclei import WAVES
from stpath_core.tissue.structures import GRID_UM
from stpath_core.tissue.texture import TILE_PX, band

_CHUNK = 400_000  # window pixels painted at a time, to stay inside the cache


def _windows(table: pd.DataFrame, reach_um: np.ndarray, *, mpp: float, shape: tuple[int, int]) -> Iterator[tuple]:
    """Yields (body number, flat pixel, u_um, v_um) for the pixels near each body, u along its long axis."""
    x, y, angle = (table[name].to_numpy(np.float32) for name in ("x_um", "y_um", "angle"))
    cos, sin = np.cos(angle), np.sin(angle)
    half = np.ceil(reach_um / mpp).astype(int) + 1
    half = ((half + 2) // 3) * 3
    for size in np.unique(half):
        offset = np.arange(-size, size + 1)
        oy, ox = (o.ravel() for o in np.meshgrid(offset, offset, indexing="ij"))
        of_size = np.flatnonzero(half == size)
        for part in np.array_split(of_size, max(1, len(of_size) * len(ox) // _CHUNK)):
            column = (x[part] / mpp).astype(int)[:, None] + ox
            row = (y[part] / mpp).astype(int)[:, None] + oy
            dx = ((column + 0.5) * mpp).astype(np.float32) - x[part, None]
            dy = ((row + 0.5) * mpp).astype(np.float32) - y[part, None]
            near = (dx * dx + dy * dy < reach_um[part, None] ** 2) & (row >= 0) & (row < shape[0])
            near &= (column >= 0) & (column < shape[1])
            who, at = np.nonzero(near)
            body = part[who]
            dx, dy = dx[who, at], dy[who, at]
            pixel = row[who, at] * shape[1] + column[who, at]
            yield body, pixel, cos[body] * dx + sin[body] * dy, cos[body] * dy - sin[body] * dx


def stamp_nuclei(rng: np.random.Generator, arch: Architecture, h: np.ndarray, e: np.ndarray, *, mpp: float) -> None:
    """Paint all nuclei into the hematoxylin and eosin densities, in place."""
    cells = arch.cells
    p = {name: cells[name].to_numpy(np.float32) for name in cells.columns if cells[name].dtype == np.float32}
    count = cells["nucleoli"].to_numpy()
    n = len(cells)
    spots = rng.uniform(-0.5, 0.5, (3, 2, n)).astype(np.float32)  # nucleoli in units of the half axes
    corner = rng.integers(0, TILE_PX, (2, n))
    tiles = {um: band(um, mpp, 1).ravel() for um in np.unique(p["clump_um"]).tolist()}
    density = np.zeros(h.size, np.float32)
    cover = np.zeros(h.size, np.float32)
    slit = np.zeros(h.size, np.float32)
    halo = p["halo"] * (0.25 + 0.75 * arch.traits.clefts)
    reach = 1.35 * np.hypot(p["long_um"], 0.4 * np.abs(p["bend"]) * p["long_um"]) + p["blur_um"] + 1.2
    turns = {m: np.exp(1j * p[f"turn{m}"]).astype(np.complex64) * p[f"wave{m}"] for m in WAVES}
    for i, pixel, u, v in _windows(cells, reach, mpp=mpp, shape=h.shape):
        a, b = p["long_um"][i], p["short_um"][i]
        v = v - p["bend"][i] * (u * u / a - 0.5 * a)
        un = u / a
        vn = v / (b * (1 - p["taper"][i] * np.minimum(un * un, 1)))
        radius = np.hypot(un, vn) + 1e-6
        direction = ((un + 1j * vn) / radius).astype(np.complex64)
        power, rim = direction, np.ones_like(radius)
        for m in WAVES:
            power = power * direction
            rim += (turns[m][i] * power).real
        inside_um = (rim - radius) * np.hypot(u, v) / radius  # roughly the distance to the outline
        soft = np.maximum(p["blur_um"][i], 0.5 * mpp)
        around = (inside_um < 0.2) & (inside_um > -1.8)
        np.maximum.at(slit, pixel[around], (halo[i] * np.exp(-(((inside_um + 0.5) / 0.6) ** 2)))[around])
        near = inside_um > -2 * soft
        i, pixel, u, v, inside_um, soft = (q[near] for q in (i, pixel, u, v, inside_um, soft))
        alpha = np.clip(0.5 + 0.5 * inside_um / soft, 0, 1)
        deep = np.clip(inside_um / (0.45 * p["short_um"][i]), 0, 1)
        row, column = np.divmod(pixel, h.shape[1])
        at = (row + corner[0][i]) % TILE_PX * TILE_PX + (column + corner[1][i]) % TILE_PX
        clump = np.zeros_like(u)
        for um, tile in tiles.items():
            same = p["clump_um"][i] == um
            clump[same] = tile[at[same]]
        vesicular = p["vesicular"][i]
        chromatin = 1 - 0.45 * vesicular * deep + p["clumps"][i] * (0.55 + 0.45 * vesicular) * clump * (0.4 + 0.6 * deep)
        chromatin += (0.08 + 0.5 * vesicular) * np.exp(-(((inside_um - 0.35) / 0.45) ** 2))
        for k in range(3):
            has = count[i] > k
            far = np.hypot(u - spots[k, 0][i] * p["long_um"][i], v - spots[k, 1][i] * p["short_um"][i])
            chromatin += has * 0.75 * np.exp(-((far / (0.55 * p["nucleolus_um"][i])) ** 2))
        value = p["density"][i] * np.clip(chromatin, 0.12, 2.2) * alpha
        np.maximum.at(density, pixel, value)
        np.maximum.at(cover, pixel, alpha)
    cover = cover.reshape(h.shape)
    e *= 1 - slit.reshape(h.shape)
    h *= 1 - slit.reshape(h.shape)
    h *= 1 - 0.85 * cover
    h += density.reshape(h.shape)
    e *= 1 - 0.85 * cover  # what a nucleus looks like inside is its own, not its surroundings'
    e += 0.26 * cover


def stamp_bodies(rng: np.random.Generator, arch: Architecture, h: np.ndarray, e: np.ndarray, *, mpp: float) -> None:
    """Paint mucin vacuoles of goblet cells and red cells in vessels, in place."""
    bodies = pd.concat([_goblets(rng, arch), _red_cells(rng, arch)], ignore_index=True)
    p = {name: bodies[name].to_numpy(np.float32) for name in bodies}
    flat_h, flat_e = h.reshape(-1), e.reshape(-1)
    for i, pixel, u, v in _windows(bodies, 1.3 * p["long_um"], mpp=mpp, shape=h.shape):
        radius = np.hypot(u / p["long_um"][i], v / p["short_um"][i])
        inside_um = (1 - radius) * p["short_um"][i]
        alpha = np.clip(0.5 + inside_um / 1.2, 0, 1) * p["opacity"][i]
        rim = np.exp(-(((inside_um - 0.2) / 0.7) ** 2)) * p["rim"][i]
        flat_h[pixel] += alpha * (p["h"][i] - flat_h[pixel])
        flat_e[pixel] += alpha * (p["e"][i] + rim - flat_e[pixel])


def _goblets(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    cells = arch.cells[arch.cells.cell_type == "goblet"]
    n = len(cells)
    long = rng.uniform(4.5, 7.0, n)
    away = long + 0.8 * cells.long_um.to_numpy()
    angle = cells.angle.to_numpy()
    return pd.DataFrame({
        "x_um": cells.x_um.to_numpy() + away * np.cos(angle), "y_um": cells.y_um.to_numpy() + away * np.sin(angle),
        "angle": angle, "long_um": long, "short_um": rng.uniform(2.8, 3.9, n), "h": rng.uniform(0.05, 0.16, n),
        "e": rng.uniform(0.02, 0.12, n), "rim": 0.25, "opacity": 0.92,
    })  # fmt: skip


def _red_cells(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    layout = arch.layout
    x, y = lattice(rng, arch.size_um, pitch_um=5.4, jitter=0.25).T
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    filling = rng.choice([0.05, 0.5, 1.0], len(layout.structures))
    here = (layout.structures.kind.to_numpy()[owner] == "vessel") & (rng.random(len(x)) < filling[owner])
    here &= sample(layout.lumen, x, y, grid_um=GRID_UM) > 1.0
    n = int(here.sum())
    long = rng.uniform(2.4, 3.2, n)
    return pd.DataFrame({
        "x_um": x[here], "y_um": y[here], "angle": rng.uniform(0, 3.1, n), "long_um": long,
        "short_um": long * rng.uniform(0.65, 1.0, n), "h": -0.1, "e": rng.uniform(0.6, 0.85, n), "rim": 0.08, "opacity": 0.95,
    })  # fmt: skip
