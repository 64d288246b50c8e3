"""Small bodies painted pixel by pixel around their centres: nuclei with their chromatin, vacuoles, red cells.

All bodies of similar size are painted together: (bodies, window pixels) arrays instead of a loop over bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.fields import keep_apart, lattice, nearest, sample
from stpath_core.tissue.nuclei import WAVES
from stpath_core.tissue.structures import GRID_UM
from stpath_core.tissue.texture import TILE_PX, band

_CHUNK = 400_000  # window pixels painted at a time, to stay inside the cache
_DARKEST = 1.3  # hematoxylin density that no nucleus exceeds: even a shrunken one is blue, not ink


def _windows(
    table: pd.DataFrame, long_um: np.ndarray, short_um: np.ndarray, *, mpp: float, shape: tuple[int, int]
) -> Iterator[tuple[np.ndarray, ...]]:
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
            pixel = r.astype(np.intp) * shape[1] + c  # ufunc.at is fast only with intp
            yield part[who], pixel, u[who, at], v[who, at]


def stamp_nuclei(rng: np.random.Generator, arch: Architecture, h: np.ndarray, e: np.ndarray, *, mpp: float) -> None:
    """Paint all nuclei into the (H, W) hematoxylin and eosin densities, in place."""
    p = {name: arch.cells[name].to_numpy(np.float32) for name in arch.cells if arch.cells[name].dtype.kind in "fi"}
    paint_chromatin = _chromatin(rng, p, mpp=mpp, width_px=h.shape[1])
    density, cover, slit = (np.zeros(h.size, np.float32) for _ in range(3))
    halo = p["halo"] * (0.12 + 0.7 * arch.traits.clefts)
    swell = 1 + sum(p[f"wave{m}"] for m in WAVES)
    long = swell * p["long_um"] + 1.5
    short = swell * p["short_um"] + 0.6 * np.abs(p["bend"]) * p["long_um"] + 1.5
    turns = {m: np.exp(1j * p[f"turn{m}"]).astype(np.complex64) * p[f"wave{m}"] for m in WAVES}
    for i, pixel, u, v in _windows(arch.cells, long, short, mpp=mpp, shape=h.shape):
        inside_um = _inside(p, turns, i, u, v)
        around = (inside_um < 0.2) & (inside_um > -1.8)
        shrunk = halo[i[around]] * np.exp(-(((inside_um[around] + 0.5) / 0.6) ** 2))
        np.maximum.at(slit, pixel[around], shrunk)
        soft = np.maximum(p["blur_um"][i], 0.5 * mpp)
        near = inside_um > -soft
        i, pixel, u, v, inside_um, soft = (q[near] for q in (i, pixel, u, v, inside_um, soft))
        alpha = np.clip(0.5 + 0.5 * inside_um / soft, 0, 1)
        np.maximum.at(cover, pixel, alpha)
        np.maximum.at(density, pixel, alpha * paint_chromatin(i, pixel, u, v, inside_um))
    density, cover, slit = (q.reshape(h.shape) for q in (density, cover, slit))
    kept = (1 - slit) * (1 - 0.85 * cover)  # what a nucleus looks like inside is its own, not its surroundings'
    h *= kept
    e *= kept
    h += density
    e += 0.18 * cover + 0.2 * density


def _inside(p: dict, turns: dict, i: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance (um, roughly) inside the outline of nucleus i at (u, v): the formula of nuclei.py, inverted."""
    a, b = p["long_um"][i], p["short_um"][i]
    un = u / a
    vn = (v - p["bend"][i] * (u * un - 0.5 * a)) / (b * (1 - p["taper"][i] * np.minimum(un * un, 1)))
    radius = np.hypot(un, vn) + 1e-6
    direction = ((un + 1j * vn) / radius).astype(np.complex64)
    power, rim = direction, np.ones_like(radius)
    for m in WAVES:  # rim = 1 + sum_m wave_m cos(m t + turn_m)
        power = power * direction
        rim += (turns[m][i] * power).real
    return (rim - radius) * np.hypot(u, v) / radius


def _chromatin(rng: np.random.Generator, p: dict, *, mpp: float, width_px: int) -> Callable[..., np.ndarray]:
    """A function that gives a nucleus' hematoxylin at pixels: membrane, cleared centre, clumps, nucleoli."""
    n = len(p["long_um"])
    spots = rng.uniform(-0.5, 0.5, (3, 2, n)).astype(np.float32)  # nucleoli, in units of the half axes
    corner = rng.integers(0, TILE_PX, (2, n))  # each nucleus reads its own part of the tile
    sizes = np.unique(p["clump_um"])
    which = np.searchsorted(sizes, p["clump_um"])
    tiles = np.stack([band(float(um), mpp, 1) for um in sizes]).reshape(-1)
    drift = band(2.6, mpp, 3).reshape(-1)  # chromatin gathers on one side, and the membrane shows only in places

    def paint(i: np.ndarray, pixel: np.ndarray, u: np.ndarray, v: np.ndarray, inside_um: np.ndarray) -> np.ndarray:
        row, column = np.divmod(pixel, width_px)
        at = (row + corner[0][i]) % TILE_PX * TILE_PX + (column + corner[1][i]) % TILE_PX
        clump, uneven = tiles[which[i] * TILE_PX**2 + at], drift[at]
        deep = np.clip(inside_um / (0.45 * p["short_um"][i]), 0, 1)
        open_ = p["vesicular"][i]
        amount = 1 - 0.45 * open_ * deep + p["clumps"][i] * (0.5 + 0.4 * open_) * clump * (1 - 0.4 * deep)
        amount += 0.13 * uneven
        membrane = (0.06 + 0.4 * open_) * np.clip(0.8 + 0.75 * uneven, 0, 1.8)
        amount += membrane * np.exp(-(((inside_um - 0.35) / 0.45) ** 2))
        for k in range(3):
            has = np.flatnonzero(p["nucleoli"][i] > k)
            j = i[has]
            far = np.hypot(u[has] - spots[k, 0][j] * p["long_um"][j], v[has] - spots[k, 1][j] * p["short_um"][j])
            amount[has] += 0.9 * np.exp(-((far / (0.55 * p["nucleolus_um"][j])) ** 2))
        return np.minimum(p["density"][i] * np.clip(amount, 0.12, 2.2), _DARKEST)

    return paint


def stamp_bodies(rng: np.random.Generator, arch: Architecture, h: np.ndarray, e: np.ndarray, *, mpp: float) -> None:
    """Paint mucin vacuoles of goblet cells, red cells, debris in lumens and nuclei far out of focus, in place."""
    kinds = (_goblets, _red_cells, _debris, _ghosts)
    bodies = pd.concat([kind(rng, arch).astype(np.float32) for kind in kinds], ignore_index=True)
    p = {name: bodies[name].to_numpy() for name in bodies}
    flat_h, flat_e = h.reshape(-1), e.reshape(-1)
    wisps = band(1.8, mpp, 4).reshape(-1)
    reach = (p[name] + p["soft_um"] for name in ("long_um", "short_um"))
    for i, pixel, u, v in _windows(bodies, *reach, mpp=mpp, shape=h.shape):
        radius = np.hypot(u / p["long_um"][i], v / p["short_um"][i])
        inside_um = (1 - radius) * np.hypot(u, v) / (radius + 1e-6)
        alpha = np.clip(0.5 + inside_um / p["soft_um"][i], 0, 1) * p["opacity"][i]
        rim = np.exp(-(((inside_um - 0.2) / 0.7) ** 2)) * p["rim"][i]
        row, column = np.divmod(pixel, h.shape[1])
        amount = np.maximum(1 + p["wispy"][i] * wisps[row % TILE_PX * TILE_PX + column % TILE_PX], 0.1)
        flat_h[pixel] += alpha * (p["h"][i] * amount - flat_h[pixel])
        flat_e[pixel] += alpha * (p["e"][i] * amount + rim - flat_e[pixel])


def _goblets(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    """Mucin between the nucleus of a goblet cell and the lumen."""
    cells = arch.cells[arch.cells.cell_type == "goblet"]
    n = len(cells)
    long = rng.uniform(4.5, 7.0, n)
    away = long + 0.8 * cells.long_um.to_numpy()
    angle = cells.angle.to_numpy()
    return pd.DataFrame({
        "x_um": cells.x_um.to_numpy() + away * np.cos(angle), "y_um": cells.y_um.to_numpy() + away * np.sin(angle),
        "angle": angle, "long_um": long, "short_um": rng.uniform(2.8, 3.9, n), "h": rng.uniform(0.05, 0.16, n),
        "e": rng.uniform(0.02, 0.12, n), "rim": 0.12, "opacity": rng.uniform(0.6, 0.95, n), "soft_um": 2.0,
        "wispy": 0.6,
    })  # fmt: skip


def _red_cells(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    """Red cells in some of the vessels; less than no hematoxylin makes them redder than eosin alone."""
    layout = arch.layout
    x, y = lattice(rng, arch.size_um, pitch_um=4.4, jitter=0.35).T
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    filling = rng.choice([0.03, 0.3, 1.0], len(layout.structures))
    here = (layout.structures.kind.to_numpy()[owner] == "vessel") & (rng.random(len(x)) < filling[owner])
    here &= sample(layout.lumen, x, y, grid_um=GRID_UM) > 1.0
    x, y = x[here], y[here]
    long = rng.uniform(2.4, 3.2, len(x))
    cells = pd.DataFrame({
        "x_um": x, "y_um": y, "angle": rng.uniform(0, 3.1, len(x)), "long_um": long,
        "short_um": long * rng.uniform(0.5, 1.0, len(x)), "h": -0.3, "e": rng.uniform(0.6, 0.95, len(x)), "rim": 0.08,
        "opacity": rng.uniform(0.7, 0.97, len(x)), "soft_um": 1.2, "wispy": 0.0,
    })  # fmt: skip
    return cells[keep_apart(np.stack([x, y], 1), 1.4 * long, rng.random(len(x)))]


def _debris(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    """What lies in the lumens of glands: shed, pale cell bodies and clots of secretion, most of them near the wall."""
    layout = arch.layout
    x, y = lattice(rng, arch.size_um, pitch_um=9.0, jitter=0.5).T
    owner = nearest(layout.structure, x, y, grid_um=GRID_UM)
    dirty = rng.choice([0.0, 0.12, 0.45], len(layout.structures))
    inside = sample(layout.lumen, x, y, grid_um=GRID_UM)
    here = np.isin(layout.structures.kind.to_numpy()[owner], ["gland", "solid"]) & (inside > -1.0)
    here &= rng.random(len(x)) < dirty[owner] * np.where(inside < 7, 1.0, 0.35)
    x, y = x[here], y[here]
    long = rng.lognormal(0.75, 0.5, len(x)).clip(0.8, 6)
    return pd.DataFrame({
        "x_um": x, "y_um": y, "angle": rng.uniform(0, 3.1, len(x)), "long_um": long,
        "short_um": long * rng.uniform(0.4, 1.0, len(x)), "h": rng.uniform(0.02, 0.16, len(x)),
        "e": rng.uniform(0.15, 0.6, len(x)), "rim": 0.05, "opacity": rng.uniform(0.3, 0.9, len(x)),
        "soft_um": rng.uniform(0.8, 2.4, len(x)), "wispy": 0.4,
    })  # fmt: skip


def _ghosts(rng: np.random.Generator, arch: Architecture) -> pd.DataFrame:
    """Smudges that no one would outline: nuclei above or below the focal plane, in no mask."""
    cells = arch.cells.iloc[rng.choice(len(arch.cells), len(arch.cells) // 6, replace=False)]
    n, away, turn = len(cells), rng.uniform(7, 10, len(cells)), rng.uniform(0, 2 * np.pi, len(cells))
    x, y = cells.x_um.to_numpy() + away * np.cos(turn), cells.y_um.to_numpy() + away * np.sin(turn)
    tissue = sample(arch.layout.lumen, x, y, grid_um=GRID_UM) < -3
    ghosts = pd.DataFrame({
        "x_um": x, "y_um": y, "angle": turn, "long_um": 0.9 * cells.long_um.to_numpy(),
        "short_um": 0.9 * cells.short_um.to_numpy(), "h": rng.uniform(0.35, 0.75, n), "e": 0.35, "rim": 0.0,
        "opacity": rng.uniform(0.3, 0.8, n), "soft_um": rng.uniform(2.0, 3.5, n), "wispy": 0.15,
    })  # fmt: skip
    return ghosts[tissue]
