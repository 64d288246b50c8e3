"""Smooth random fields and point patterns: the clay that regions, glands, fibres and cells are modelled from."""

from __future__ import annotations

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], *, scale_px: float | tuple[float, float]
) -> np.ndarray:
    """(h, w) float32 Gaussian field, mean 0 and standard deviation near 1, varying over `scale_px` (rows, columns)."""
    scale = np.broadcast_to(np.asarray(scale_px, float), (2,))
    coarse = rng.standard_normal([int(np.ceil(n / s)) + 5 for n, s in zip(shape, scale, strict=True)])
    rows, columns = (1.5 + rng.random() + np.arange(n) / s for n, s in zip(shape, scale, strict=True))
    field = _cubic(coarse, rows, axis=0)
    return (2.09 * _cubic(field, columns, axis=1)).astype(np.float32)


def _cubic(values: np.ndarray, at: np.ndarray, *, axis: int) -> np.ndarray:
    """Cubic B-spline smoothing along one axis at fractional indices `at`; separable, so a frame costs two passes."""
    start = np.floor(at).astype(int)
    t = at - start
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    shape = [1, 1]
    shape[axis] = len(at)
    return sum(np.take(values, start - 1 + k, axis=axis) * (w / 6).reshape(shape) for k, w in enumerate(weights))


def sample(field: np.ndarray, x_um: np.ndarray, y_um: np.ndarray, *, grid_um: float) -> np.ndarray:
    """Values of a (gh, gw) grid at points in micrometres, linear between the centres of grid cells."""
    return ndi.map_coordinates(field, [y_um / grid_um - 0.5, x_um / grid_um - 0.5], order=1, mode="nearest")


def nearest(field: np.ndarray, x_um: np.ndarray, y_um: np.ndarray, *, grid_um: float) -> np.ndarray:
    """Values of a (gh, gw) grid of codes at points in micrometres; points outside read the border."""
    row = np.clip((y_um / grid_um).astype(int), 0, field.shape[0] - 1)
    column = np.clip((x_um / grid_um).astype(int), 0, field.shape[1] - 1)
    return field[row, column]


def lattice(rng: np.random.Generator, size_um: tuple[float, float], *, pitch_um: float, jitter: float = 0.3,
            pad_um: float = 0.0) -> np.ndarray:  # fmt: skip
    """(n, 2) points of a hexagonal lattice, shaken by `jitter` of its pitch, that covers the section and a border."""
    step = pitch_um * np.sqrt(3) / 2
    columns = np.arange(-pad_um, size_um[0] + pad_um + pitch_um, pitch_um)
    rows = np.arange(-pad_um, size_um[1] + pad_um + step, step)
    x, y = np.meshgrid(columns, rows)
    x = x + (np.arange(len(rows)) % 2 * pitch_um / 2)[:, None]
    points = np.stack([x, y], -1).reshape(-1, 2) + rng.uniform(-0.5, 0.5, 2) * pitch_um
    return points + rng.normal(0, jitter * pitch_um, points.shape)


def keep_apart(xy_um: np.ndarray, reach_um: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """(n,) bool: the points left when, of any two nearer than the mean of their reaches, the lower priority goes.

    Decided in rounds, like a greedy walk from the highest priority down, but for all points at once: a point that beats
    every undecided neighbour stays, and its neighbours go.
    """
    pairs = _within_reach(xy_um, reach_um)
    first = priority[pairs[:, 0]] > priority[pairs[:, 1]]
    winner = np.where(first, pairs[:, 0], pairs[:, 1])
    loser = np.where(first, pairs[:, 1], pairs[:, 0])
    undecided = np.ones(len(xy_um), bool)
    kept = np.zeros(len(xy_um), bool)
    while undecided.any():
        open_pair = undecided[winner] & undecided[loser]
        winner, loser = winner[open_pair], loser[open_pair]
        beaten = np.zeros(len(xy_um), bool)
        beaten[loser] = True
        kept |= (new := undecided & ~beaten)
        undecided &= beaten
        undecided[loser[new[winner]]] = False
    return kept


def _within_reach(xy_um: np.ndarray, reach_um: np.ndarray, *, groups: int = 8) -> np.ndarray:
    """(m, 2) pairs of points nearer than the mean of their reaches.

    Searched group by group of like reach: one search at the largest reach would find ten times too many.
    """
    parts = [g for g in np.array_split(np.argsort(reach_um, kind="stable"), groups) if len(g)]
    trees, largest = [cKDTree(xy_um[part]) for part in parts], [float(reach_um[part[-1]]) for part in parts]
    found = [np.zeros((0, 2), np.intp)]
    for a, part in enumerate(parts):
        found.append(part[trees[a].query_pairs(largest[a], output_type="ndarray")])
        for b in range(a + 1, len(parts)):
            near = trees[a].sparse_distance_matrix(trees[b], 0.5 * (largest[a] + largest[b]), output_type="ndarray")
            found.append(np.stack([part[near["i"]], parts[b][near["j"]]], axis=1))
    pairs = np.concatenate(found)
    apart = np.linalg.norm(xy_um[pairs[:, 0]] - xy_um[pairs[:, 1]], axis=1)
    return pairs[apart < 0.5 * (reach_um[pairs[:, 0]] + reach_um[pairs[:, 1]])]


def along_contours(field: np.ndarray, *, pitch_um: np.ndarray, grid_um: float, rng: np.random.Generator) -> np.ndarray:
    """(n, 4) points x_um, y_um and the unit normal that points uphill, strung along the zero line of a grid.

    pitch_um : a grid like `field`, that says how far apart they are where the line runs.
    """
    from skimage.measure import find_contours

    lines = [line for line in find_contours(field, 0.0) if len(line) > 3]
    if not lines:
        return np.zeros((0, 4), np.float32)
    rowcol = np.concatenate(lines)
    step = np.linalg.norm(np.diff(rowcol, axis=0, prepend=rowcol[:1]), axis=1) * grid_um
    step[np.cumsum([0] + [len(line) for line in lines[:-1]])] = 0.0  # no walking from one line to the next
    walked = np.cumsum(step / ndi.map_coordinates(pitch_um, rowcol.T, order=0))
    stops = np.arange(0.5, walked[-1], 1.0)
    stops = stops + rng.uniform(-0.22, 0.22, len(stops))
    row, column = (np.interp(stops, walked, rowcol[:, k]) for k in (0, 1))
    gy, gx = np.gradient(field)
    normal = np.stack([ndi.map_coordinates(g, [row, column], order=1, mode="nearest") for g in (gx, gy)], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
    return np.column_stack([(column + 0.5) * grid_um, (row + 0.5) * grid_um, normal])
