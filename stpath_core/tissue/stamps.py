"""Small bodies painted pixel by pixel around their centres: nuclei with their chromatin, vacuoles, red cells.

All bodies of similar size are painted together: (bodies, window pixels) arrays instead of a loop over bodies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.fields import keep_apart, lattice, nearest, sample
from stpath_core.tissue.nuclei import WAVES
from stpath_core.tissue.structures import GRID_UM
from stpath_core.tissue.texture import TILE_PX, band

_CHUNK = 400_000  # window pixels painted at a time, to stay inside the cache


def _windows(table: pd.DataFrame, long_um: np.ndarray, short_um: np.ndarray, *, mpp: float, shape: tuple[int, int]) -> Iterator:
    """Yields (body, flat pixel, u_um, v_um) for the pixels of each body's box |u| < long_um, |v| < short_um."""
    x, y, angle = (table[name].to_numpy(np.float32) for name in ("x_um", "y_um", "angle"))
    cos, sin = np.cos(angle), np.sin(angle)
    column, row = (x / mpp).astype(np.int32), (y / mpp).astype(np.int32)
    half = np.ceil(np.hypot(long_um, short_um) / mpp).astype(int) + 1
    half = ((half + 2) // 3) * 3
    for size in np.unique(half):
        offset = np.arange(-size, size + 1, dtype=np.int32)
        oy, ox = (o.ravel() for o in np.meshgrid(offset, offset, indexing="ij"))
        of_size = np.flatnonzero(half == size)
        for part in np.array_split(of_size, max(1, len(of_size) * len(ox) // _CHUNK)):
            dx = (mpp * (ox + 0.5)).astype(np.float32) + (mpp * column[part] - x[part]).astype(np.float32)[:, None]
            dy = (mpp * (oy + 0.5)).astype(np.float32) + (mpp * row[part] - y[part]).astype(np.float32)[:, None]
            u = cos[part, None] * dx + sin[part, None] * dy
            v = cos[part, None] * dy - sin[part, None] * dx
            near = (np.abs(u) < long_um[part, None]) & (np.abs(v) < short_um[part, None])
            who, at = np.divmod(np.flatnonzero(near.ravel()).astype(np.int32), np.int32(len(ox)))
            r, c = row[part][who] + oy[at], column[part][who] + ox[at]
            valid = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
            who, at, r, c = who[valid], at[valid], r[valid], c[valid]
            yield part[who], r.astype(np.intp) * shape[1] + c, u[who, at], v[who, at]  # intp: ufunc.at is fast only so


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
    halo = p["halo"] * (0.12 + 0.7 * arch.traits.clefts)
    swell = 1 + sum(p[f"wave{m}"] for m in WAVES)
    long = swell * p["long_um"] + 1.5
    short = swell * p["short_um"] + 0.6 * np.abs(p["bend"]) * p["long_um"] + 1.5
    turns = {m: np.exp(1j * p[f"turn{m}"]).astype(np.complex64) * p[f"wave{m}"] for m in WAVES}
    for i, pixel, u, v in _windows(cells, long, short, mpp=mpp, shape=h.shape):
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
            chromatin += has.astype(np.float32) * 0.75 * np.exp(-((far / (0.55 * p["nucleolus_um"][i])) ** 2))
        value = p["density"][i] * np.clip(chromatin, 0.12, 2.2) * alpha
        np.maximum.at(density, pixel, value)
        np.maximum.at(cover, pixel, alpha)
    cover = cover.reshape(h.shape)
    e *= 1 - slit.reshape(h.shape)
    h *= 1 - slit.reshape(h.shape)
    h *= 1 - 0.85 * cover
    density = density.reshape(h.shape)
    h += density
    e *= 1 - 0.85 * cover  # what a nucleus looks like inside is its own, not its surroundings'
    e += 0.18 * cover + 0.2 * density


def stamp_bodies(rng: np.random.Generator, arch: Architecture, h: np.ndarray, e: np.ndarray, *, mpp: float) -> None:
    """Paint mucin vacuoles of goblet cells, red cells in vessels and nuclei far out of focus, in place."""
    kinds = (_goblets, _red_cells, _ghosts)
    bodies = pd.concat([kind(rng, arch).astype(np.float32) for kind in kinds], ignore_index=True)
    p = {name: bodies[name].to_numpy() for name in bodies}
    flat_h, flat_e = h.reshape(-1), e.reshape(-1)
    for i, pixel, u, v in _windows(bodies, p["long_um"] + p["soft_um"], p["short_um"] + p["soft_um"], mpp=mpp, shape=h.shape):
        radius = np.hypot(u / p["long_um"][i], v / p["short_um"][i])
        inside_um = (1 - radius) * np.hypot(u, v) / (radius + 1e-6)
        alpha = np.clip(0.5 + inside_um / p["soft_um"][i], 0, 1) * p["opacity"][i]
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
        "e": rng.uniform(0.02, 0.12, n), "rim": 0.25, "opacity": 0.92, "soft_um": 1.2,
    })  # fmt: skip


def _red_cells(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    layout = arch.layout
    x, y = lattice(rng, arch.size_um, pitch_um=5.4, jitter=0.25).T
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    filling = rng.choice([0.05, 0.5, 1.0], len(layout.structures))
    here = (layout.structures.kind.to_numpy()[owner] == "vessel") & (rng.random(len(x)) < filling[owner])
    here &= sample(layout.lumen, x, y, grid_um=GRID_UM) > 1.0
    x, y = x[here], y[here]
    long = rng.uniform(2.4, 3.2, len(x))
    cells = pd.DataFrame({
        "x_um": x, "y_um": y, "angle": rng.uniform(0, 3.1, len(x)), "long_um": long,
        "short_um": long * rng.uniform(0.65, 1.0, len(x)), "h": -0.3, "e": rng.uniform(0.7, 0.95, len(x)), "rim": 0.08,
        "opacity": 0.95, "soft_um": 1.2,
    })  # fmt: skip
    return cells[keep_apart(np.stack([x, y], 1), 1.9 * long, rng.random(len(x)))]


def _ghosts(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    """Smudges that no one would outline: nuclei above or below the focal plane, in no mask."""
    cells = arch.cells.iloc[rng.choice(len(arch.cells), len(arch.cells) // 6, replace=False)]
    n, away, turn = len(cells), rng.uniform(7, 10, len(cells)), rng.uniform(0, 2 * np.pi, len(cells))
    x, y = cells.x_um.to_numpy() + away * np.cos(turn), cells.y_um.to_numpy() + away * np.sin(turn)
    tissue = sample(arch.layout.lumen, x, y, grid_um=GRID_UM) < -3
    ghosts = pd.DataFrame({
        "x_um": x, "y_um": y, "angle": turn, "long_um": 0.9 * cells.long_um.to_numpy(),
        "short_um": 0.9 * cells.short_um.to_numpy(), "h": rng.uniform(0.35, 0.75, n), "e": 0.35, "rim": 0.0,
        "opacity": rng.uniform(0.3, 0.8, n), "soft_um": rng.uniform(2.0, 3.5, n),
    })  # fmt: skip
    return ghosts[tissue]
