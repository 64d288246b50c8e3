"""Repeating tiles of texture, made once per resolution and then only read: what makes the renderer fast."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TILE_PX = 512
STRIP_PX = 128  # rows painted at a time, to stay inside the cache
DIRECTIONS = 12


@lru_cache(maxsize=64)
def band(scale_um: float, mpp: float, seed: int) -> np.ndarray:
    """(512, 512) float32 tile of noise with bumps about `scale_um` wide, mean 0 and standard deviation 1."""
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
def fibres(width_um: float, length_um: float, mpp: float, seed: int) -> np.ndarray:
    """(12, 512, 512) float32 tiles of streaks, one per direction k * 180 / 12 degrees, mean 0 and standard deviation 1.

    All directions are made from the same noise, so that a blend of two neighbours is a streak in between.
    """
    rng = np.random.default_rng([seed, 79])
    noise = np.fft.rfft2(rng.standard_normal((TILE_PX, TILE_PX)))
    fx, fy = np.meshgrid(np.fft.rfftfreq(TILE_PX, mpp), np.fft.fftfreq(TILE_PX, mpp))
    tiles = np.empty((DIRECTIONS, TILE_PX, TILE_PX), np.float32)
    for k in range(DIRECTIONS):
        angle = np.pi * k / DIRECTIONS
        across = np.abs(np.cos(angle) * fy - np.sin(angle) * fx) * width_um * 2
        ahead = (np.cos(angle) * fx + np.sin(angle) * fy) * length_um * 2
        tile = np.fft.irfft2(noise * np.exp(-0.5 * (across**2 + ahead**2)) * (0.15 + across), (TILE_PX, TILE_PX))
        tiles[k] = (tile - tile.mean()) / tile.std()
    tiles.setflags(write=False)
    return tiles


def window(tile: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The part of an endlessly repeated tile under pixels `rows` x `columns`."""
    side = tile.shape[0]
    return tile[(rows + shift[0]) % side][:, (columns + shift[1]) % side]


def streaks(tiles: np.ndarray, turn: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Fibre texture with a direction of its own at every pixel.

    turn : (h, w) direction in units of 180 / 12 degrees, in 0..12; pixel : (h, w) flat index into a tile.
    """
    low = turn.astype(np.int32) % DIRECTIONS
    share = turn - np.floor(turn)
    flat = tiles.reshape(-1)
    first = flat[low * TILE_PX**2 + pixel]
    return first + share * (flat[(low + 1) % DIRECTIONS * TILE_PX**2 + pixel] - first)


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
