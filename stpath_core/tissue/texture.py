"""Repeating tiles of texture, made once per resolution and then only read: what makes the renderer fast."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TILE_PX = 512
LINE_STEP_UM = 0.125


@lru_cache(maxsize=64)
def band(scale_um: float, mpp: float, seed: int) -> np.ndarray:
    """(512, 512) float32 tile of band-limited noise, mean 0 and standard deviation 1, with bumps about `scale_um` wide."""
    rng = np.random.default_rng([seed, 77])
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(TILE_PX, mpp), np.fft.fftfreq(TILE_PX, mpp)))
    peak = frequency * scale_um * 2
    gain = np.exp(-0.5 * peak**2) * (0.25 + peak)
    gain[0, 0] = 0
    tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE_PX, TILE_PX))) * gain)
    tile = (tile / tile.std()).astype(np.float32)
    tile.setflags(write=False)
    return tile


@lru_cache(maxsize=8)
def foam(scale_um: float, mpp: float, seed: int) -> np.ndarray:
    """(512, 512) float32 tile in 0..1 of bubbles about `scale_um` wide: 0 inside a bubble, 1 on the walls between."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng([seed, 78])
    side = TILE_PX * mpp
    points = rng.uniform(0, side, (int((side / scale_um) ** 2 * 1.3), 2))
    grid = (np.indices((TILE_PX, TILE_PX)).reshape(2, -1).T + 0.5) * mpp
    near = cKDTree(points, boxsize=side).query(grid, k=2)[0]
    wall = np.exp(-(((near[:, 1] - near[:, 0]) / (0.35 * scale_um)) ** 2))
    tile = wall.reshape(TILE_PX, TILE_PX).astype(np.float32)
    tile.setflags(write=False)
    return tile


@lru_cache(maxsize=8)
def line(scale_um: float, seed: int) -> np.ndarray:
    """(16384,) float32 noise along one axis, mean 0 and standard deviation 1, sampled every LINE_STEP_UM: fibre profiles."""
    rng = np.random.default_rng([seed, 79])
    n = 16384
    peak = np.fft.rfftfreq(n, LINE_STEP_UM) * scale_um * 2
    gain = np.exp(-0.5 * peak**2) * (0.15 + peak)
    gain[0] = 0
    profile = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * gain, n)
    return (profile / profile.std()).astype(np.float32)


def window(tile: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The part of an endlessly repeated tile under pixels `rows` x `columns`."""
    side = tile.shape[0]
    return tile[(rows + shift[0]) % side][:, (columns + shift[1]) % side]


def along(profile: np.ndarray, position_um: np.ndarray) -> np.ndarray:
    """Values of an endlessly repeated fibre profile at positions in um (any shape)."""
    return profile[(position_um * (1 / LINE_STEP_UM)).astype(np.int32) & (len(profile) - 1)]


class Upsampler:
    """Reads (gh, gw) grids at the centres of pixels, linearly, for a strip of rows at a time."""

    def __init__(self, grid_shape: tuple[int, int], *, grid_um: float, mpp: float, width_px: int):
        self.grid_shape, self.scale = grid_shape, mpp / grid_um
        self.left, self.right, self.wx = self._weights(np.arange(width_px), grid_shape[1])

    def _weights(self, pixel: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((pixel + 0.5) * self.scale - 0.5, 0, n - 1)
        low = at.astype(np.intp)
        return low, np.minimum(low + 1, n - 1), (at - low).astype(np.float32)

    def linear(self, grid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        low, high, w = self._weights(rows, self.grid_shape[0])
        strip = grid[low] + w[:, None] * (grid[high] - grid[low])
        left = strip[:, self.left]
        return left + self.wx * (strip[:, self.right] - left)

    def nearest(self, grid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        low, high, w = self._weights(rows, self.grid_shape[0])
        return grid[np.where(w > 0.5, high, low)][:, np.where(self.wx > 0.5, self.right, self.left)]
