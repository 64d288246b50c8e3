"""Nuclei as geometry: parameters drawn per cell, outlines as polygons of 32 vertices, cells around them.

A nucleus is an ellipse whose radius wobbles with the angle, whose ends may be tapered and whose long axis may be bent:
    r(t) = 1 + sum_m wave_m cos(m t + turn_m),    u = a r cos t,
    v = b r sin t (1 - taper min((u / a)^2, 1)) + bend (u^2 / a - a / 2),    taper < 0 fills the ends,
then turned by `angle` and moved to (x, y). The renderer inverts the same lines for every pixel.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from stpath_core.tissue.cell_types import CELL_TYPES, FINE_TYPES, Nucleus
from stpath_core.tissue.patients import Patient

VERTICES = 32
WAVES = (2, 3, 4, 5)
_MITOTIC_SHARE = 0.3  # of the cycling tumour cells
_NUCLEUS = {name: np.array([getattr(CELL_TYPES[t].nucleus, name) for t in FINE_TYPES], np.float32)
            for name in Nucleus.__dataclass_fields__}  # fmt: skip
_CARCINOMA = np.array([t.startswith("carcinoma") for t in FINE_TYPES])


def draw_nuclei(rng: np.random.Generator, code: np.ndarray, *, size: np.ndarray, traits: Patient) -> pd.DataFrame:
    """One row of nuclear parameters per cell; lengths in um.

    code : (n,) index into FINE_TYPES. size : (n,) factor on the area.
    """
    n = len(code)
    z = rng.standard_normal((8, n)).astype(np.float32)
    p = {name: values[code] for name, values in _NUCLEUS.items()}
    wild = np.where(_CARCINOMA[code], traits.pleomorphism, 1)
    cap = rng.random(n) ** 0.25  # a section cuts nuclei anywhere: of some it holds only a small, pale cap
    cap = np.where(rng.random(n) < 0.3, cap.clip(0.45), 1.0)
    area = p["area_um2"] * size * np.exp(p["area_sd"] * wild * z[0]) * cap
    aspect = 1.0 + (p["aspect"] - 1.0) * np.exp(2.2 * p["aspect_sd"] * z[1])
    table = pd.DataFrame({"long_um": np.sqrt(area * aspect / np.pi), "short_um": np.sqrt(area / aspect / np.pi)})
    table["taper"] = (0.16 * (aspect - 1.3)).clip(0, 0.32) * rng.uniform(-1.0, 0.4, n)  # below 0: rounded, full ends
    table["bend"] = p["bend"] * z[2] * 1.2
    for m in WAVES:
        amplitude = p["wobble"] * wild * rng.rayleigh(1.5 / m, n)
        lobed = p["lobes"] * np.abs(1 + 0.3 * z[3]) * (m == np.where(z[4] > 0, 3, 4))
        table[f"wave{m}"] = np.minimum(amplitude + lobed, 0.4)
        table[f"turn{m}"] = rng.uniform(0, 2 * np.pi, n)
    table["density"] = p["density"] * np.exp(p["density_sd"] * wild * z[5]) * (0.5 + 0.5 * cap)
    vesicular = p["vesicular"] * (1 + 0.45 * z[6]) + traits.open_chromatin * (p["vesicular"] > 0.2)
    table["vesicular"] = vesicular.clip(0, 1)
    table["clumps"] = p["clumps"] * np.exp(0.25 * z[7])
    table["clump_um"] = p["clump_um"]
    table["nucleoli"] = rng.poisson(p["nucleoli"]).clip(0, 3)
    table["nucleolus_um"] = p["nucleolus_um"] * rng.uniform(0.75, 1.25, n)
    table["blur_um"] = 0.18 + 0.5 * rng.beta(1.2, 3.0, n) + 0.8 * (1 - cap)  # borders are sharp or not, cell by cell
    table["halo"] = rng.beta(0.5, 1.6, n)  # how far the cytoplasm has shrunk from the nucleus
    mitosis = (code == FINE_TYPES.index("carcinoma_cycling")) & (rng.random(n) < _MITOTIC_SHARE)
    table["mitosis"] = mitosis
    table.loc[mitosis, "short_um"] *= 0.55
    table.loc[mitosis, ["density", "vesicular", "clumps", "nucleoli"]] = [1.0, 0.0, 0.3, 0]
    return table.astype({name: np.float32 for name in table if name not in ("nucleoli", "mitosis")})


def settle(cells: pd.DataFrame, *, rounds: int = 5, touch: float = 0.9) -> np.ndarray:
    """(n, 2) centres, pushed apart until nuclei only just touch; what cannot be resolved stays a slight overlap."""
    xy = cells[["x_um", "y_um"]].to_numpy().copy()
    i, j = cKDTree(xy).query_pairs(2 * float(cells.long_um.quantile(0.99)) + 2, output_type="ndarray").T
    for _ in range(rounds):
        apart, reach, direction = _pairs(cells, xy, i, j)
        push = 0.65 * (0.5 * (touch * reach - apart)).clip(0, 1.5)[:, None] * direction
        for axis in (0, 1):
            xy[:, axis] += np.bincount(j, push[:, axis], len(xy)) - np.bincount(i, push[:, axis], len(xy))
    return xy


def crowded(cells: pd.DataFrame, *, limit: float = 0.62) -> np.ndarray:
    """(n,) bool: cells whose nucleus lies deep inside a neighbour's; of each such pair, the smaller."""
    xy = cells[["x_um", "y_um"]].to_numpy()
    i, j = cKDTree(xy).query_pairs(2 * float(cells.long_um.max()), output_type="ndarray").T
    apart, reach, _ = _pairs(cells, xy, i, j)
    area = (cells.long_um * cells.short_um).to_numpy()
    out = np.zeros(len(cells), bool)
    out[np.where(area[i] < area[j], i, j)[apart < limit * reach]] = True
    return out


def _pairs(cells: pd.DataFrame, xy: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of pairs of nuclei: distance of the centres, sum of the radii that face each other, unit vector from i to j."""
    long, short, angle = (cells[name].to_numpy() for name in ("long_um", "short_um", "angle"))
    d = xy[j] - xy[i]
    apart = np.linalg.norm(d, axis=1) + 1e-6
    heading = np.arctan2(d[:, 1], d[:, 0])
    reach = np.zeros(len(d))
    for k in (i, j):
        facing = heading - angle[k]
        reach += long[k] * short[k] / np.hypot(short[k] * np.cos(facing), long[k] * np.sin(facing))
    return apart, reach, d / apart[:, None]


def outlines(cells: pd.DataFrame) -> np.ndarray:
    """(n, 32, 2) float32 polygons of the nuclei in um."""
    t = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False, dtype=np.float32)[None]
    p = {name: cells[name].to_numpy(np.float32)[:, None] for name in cells if cells[name].dtype.kind == "f"}
    a = p["long_um"]
    r = 1 + sum(p[f"wave{m}"] * np.cos(m * t + p[f"turn{m}"]) for m in WAVES)
    u = a * r * np.cos(t)
    v = p["short_um"] * r * np.sin(t) * (1 - p["taper"] * np.minimum((u / a) ** 2, 1))
    v = v + p["bend"] * (u**2 / a - 0.5 * a)
    cos, sin = np.cos(p["angle"]), np.sin(p["angle"])
    return np.stack([p["x_um"] + cos * u - sin * v, p["y_um"] + sin * u + cos * v], -1)  # (n, 32, 2)


def cell_outlines(nuclei_um: np.ndarray, reach_um: np.ndarray, *, size_um: tuple[float, float]) -> np.ndarray:
    """(n, 32, 2) cell outlines: the nucleus grown by `reach_um`, at most halfway to a neighbour and to the border."""
    centre = nuclei_um.mean(1)
    spoke = nuclei_um - centre[:, None]
    order = np.argsort(np.arctan2(spoke[..., 1], spoke[..., 0]), axis=1)  # a bent nucleus has spokes out of order
    spoke = np.take_along_axis(spoke, order[..., None], 1)
    length = np.linalg.norm(spoke, axis=-1)
    spoke = spoke / length[..., None]
    room = np.where(spoke > 0, np.array(size_um, np.float32) - centre[:, None], centre[:, None])  # to the border
    limit = (room / np.maximum(np.abs(spoke), 1e-6)).min(-1)
    other = cKDTree(centre).query(centre, k=min(9, len(centre)))[1].reshape(len(centre), -1)[:, 1:]
    for neighbour in other.T:
        half = 0.5 * (centre[neighbour] - centre)  # (n, 2)
        along = np.einsum("nvk,nk->nv", spoke, half)
        wall = (half**2).sum(1)[:, None] / np.maximum(along, 1e-3)
        limit = np.minimum(limit, np.where(along > 1e-3, wall, np.inf))
    length = np.maximum(length, np.minimum(length + reach_um[:, None], limit))
    return (centre[:, None] + spoke * length[..., None]).astype(np.float32)
