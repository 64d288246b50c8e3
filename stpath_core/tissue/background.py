"""All that is not nucleus: fibres and clefts of the stroma, cell bodies and their borders, lumens, fat, vessel walls.

Painted strip by strip, so that every array stays in the cache. Structure comes from the layout's grids, grain from
repeated tiles of texture; amounts are shares of the stains' strengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.cell_types import CELL_TYPES, FINE_TYPES, REGIONS, SUPER_INDEX, Cytoplasm
from stpath_core.tissue.structures import GRID_UM, KINDS
from stpath_core.tissue.texture import DIRECTIONS, STRIP_PX, TILE_PX, Upsampler, band, fibres, foam, streaks, window

_COARSE_UM = 4.0  # grid on which the cells that may own a pixel are listed
_NEAR = 4  # how many
_ECCENTRIC = [FINE_TYPES.index(name) for name in ("plasma", "macrophage")]
_EPITHELIAL = [k for k, name in enumerate(FINE_TYPES) if SUPER_INDEX[name] < 2]
_CYTOPLASM = {name: np.array([getattr(CELL_TYPES[t].cytoplasm, name) for t in FINE_TYPES], np.float32)
              for name in Cytoplasm.__dataclass_fields__}  # fmt: skip


class _Strip(NamedTuple):
    """What is known about the pixels of some rows; arrays are (rows, W)."""

    rows: np.ndarray
    depth: np.ndarray  # um inside the nearest structure
    lumen: np.ndarray  # um inside a lumen
    owner: np.ndarray  # nearest structure
    kind: np.ndarray  # its kind
    fine: np.ndarray  # texture of 0.5 um
    middle: np.ndarray  # of 1.5 um
    coarse: np.ndarray  # of 5 um


def paint_background(rng: np.random.Generator, arch: Architecture, *, mpp: float, shape: tuple[int, int]) -> tuple:
    """(H, W) float32 hematoxylin and eosin densities of everything but the nuclei."""
    h, e = np.empty(shape, np.float32), np.empty(shape, np.float32)
    painter = _Painter(rng, arch, mpp=mpp, width_px=shape[1])
    for top in range(0, shape[0], STRIP_PX):
        rows = np.arange(top, min(top + STRIP_PX, shape[0]))
        h[rows], e[rows] = painter.paint(rows)
    return h, e


def _step(value: np.ndarray, width: float) -> np.ndarray:
    """0 to 1 across `width` around zero."""
    return np.clip(0.5 + value / width, 0, 1)


def _ridge(value: np.ndarray, width: float) -> np.ndarray:
    """1 where `value` is zero, falling to 0 within about two widths."""
    return np.exp(-((value / width) ** 2))


class _Painter:
    def __init__(self, rng: np.random.Generator, arch: Architecture, *, mpp: float, width_px: int):
        layout, table = arch.layout, arch.layout.structures
        self.mpp, self.layout, self.traits = mpp, layout, arch.traits
        self.columns = np.arange(width_px)
        self.up = Upsampler(arch.region.shape, grid_um=GRID_UM, mpp=mpp, width_px=width_px)
        self.shift = rng.integers(0, TILE_PX, (16, 2))
        self.kind = table.kind.map(KINDS.index).to_numpy(np.uint8)
        self.epithelial = np.array([k in ("gland", "solid", "glomerulus") for k in KINDS], np.float32)
        self.ragged = np.array([1.0 if k in ("gland", "solid") else 0.2 for k in KINDS], np.float32)
        self.clear = table.clear.to_numpy(np.float32)
        self.mucin = (table.mucin.to_numpy() * rng.uniform(0, 1.6, len(table))).clip(0, 1).astype(np.float32)
        self.curdled = rng.uniform(0.1, 1.4, len(table)).astype(np.float32)  # how clotted a lumen's secretion is
        self.tumour = table.region.isin(["invasive", "in_situ"]).to_numpy(np.float32)
        own = [getattr(arch.traits.plan.compartments.get(region), "collagen", 0.5) for region in REGIONS]
        collagen = np.array(own, np.float32)[layout.territory] * np.float32(arch.traits.collagen)
        self.collagen = ndi.uniform_filter(collagen, 17)
        self.cos, self.sin = np.cos(2 * layout.fibre), np.sin(2 * layout.fibre)
        self._list_cells(rng, arch)

    def _list_cells(self, rng: np.random.Generator, arch: Architecture) -> None:
        """Centres of the cell bodies and, per coarse grid cell, the few that may own its pixels."""
        cells, code = arch.cells, arch.cells.cell_type.cat.codes.to_numpy()
        turn = rng.uniform(0, 2 * np.pi, len(cells))
        away = np.where(np.isin(code, _ECCENTRIC), 2.0, 0.3)
        centre = cells[["x_um", "y_um"]].to_numpy() + away[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
        self.x, self.y = centre.astype(np.float32).T
        self.size = np.sqrt(cells.long_um * cells.short_um).to_numpy(np.float32)
        vary = np.exp(rng.normal(0, 0.2, (2, len(cells)))).astype(np.float32)
        self.cell_e = _CYTOPLASM["eosin"][code] * vary[0]
        self.cell_h = _CYTOPLASM["hematoxylin"][code] * vary[1] * arch.traits.basophilia
        self.reach, self.grain, self.border = (_CYTOPLASM[name][code] for name in ("radius_um", "grain", "border"))
        lining = np.flatnonzero(np.isin(code, _EPITHELIAL))
        self.host = np.arange(len(cells))
        if len(lining):  # inside a wall, the room around a leukocyte is its epithelial neighbour's
            self.host = lining[cKDTree(centre[lining]).query(centre)[1]]
        gx, gy = np.meshgrid(*(np.arange(0, s, _COARSE_UM) + _COARSE_UM / 2 for s in arch.size_um))
        near = cKDTree(centre).query(np.stack([gx, gy], -1), k=min(_NEAR, len(cells)))[1].reshape(*gx.shape, -1)
        self.near = np.moveaxis(near, -1, 0).astype(np.int32)  # (4, coarse rows, coarse columns)

    def _texture(self, tile: np.ndarray, rows: np.ndarray, number: int) -> np.ndarray:
        return window(tile, rows, self.columns, shift=self.shift[number])

    def paint(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, W) hematoxylin and eosin: stroma first, then cell bodies, then what is empty."""
        owner = self.up.nearest(self.layout.structure, rows)
        kind = self.kind[owner]
        fine, middle, coarse = (self._texture(band(um, self.mpp, k), rows, k) for k, um in enumerate((0.5, 1.5, 5.0)))
        frayed = self.ragged[kind] * (0.7 * coarse + 0.25 * middle)  # no wall is smooth
        depth = self.up.linear(self.layout.depth, rows) + 0.4 * frayed
        lumen = self.up.linear(self.layout.lumen, rows) + frayed
        s = _Strip(rows, depth, lumen, owner, kind, fine, middle, coarse)
        h, e = self._stroma(s)
        h, e = self._cell_bodies(h, e, s)
        uneven = 0.96 + 0.06 * self._texture(band(40.0, self.mpp, 9), rows, 8) + 0.03 * coarse
        uneven = np.maximum(uneven, 0.3) ** 2
        return self._spaces(h * uneven, e * uneven, s)

    def _stroma(self, s: _Strip) -> tuple[np.ndarray, np.ndarray]:
        """Collagen along the fibre direction: dense bundles with lens-shaped clefts, or loose strands on glass."""
        rows, mpp, blue = s.rows, self.mpp, self.traits.basophilia
        wave = [self._texture(band(24.0, mpp, k), rows, 3 + k) for k in (0, 1)]
        column = (self.columns + self.shift[5, 0] + (2.6 / mpp) * wave[0]).astype(np.int32) % TILE_PX
        row = (rows[:, None] + self.shift[5, 1] + (2.6 / mpp) * wave[1]).astype(np.int32) % TILE_PX
        turn = np.arctan2(self.up.linear(self.sin, rows), self.up.linear(self.cos, rows))
        turn = (turn * (0.5 * DIRECTIONS / np.pi)) % DIRECTIONS
        bundle = streaks(fibres(3.0, 26.0, mpp, 1), turn, row * TILE_PX + column)
        fibril = streaks(fibres(0.9, 16.0, mpp, 2), turn, row * TILE_PX + column)
        web = streaks(fibres(6.0, 60.0, mpp, 3), turn, row * TILE_PX + column)
        patch = self._texture(band(30.0, mpp, 6), rows, 6)
        muscle = 0.85 * _step(self.up.linear(self.layout.muscle, rows), 0.6)
        tight = np.clip(np.maximum(self.up.linear(self.collagen, rows) + 0.22 * patch, muscle), 0, 1.1)
        cleft = _step(bundle + 0.25 * fibril - 2.6 * tight + 0.6, 0.6)
        strand = 0.39 * _ridge(web + 0.3 * s.coarse, 0.16) + 0.15 * _ridge(fibril, 0.3) * (s.coarse > 0.4)
        seam = _ridge(web, 0.13) * _step(patch + 0.6, 1.0)  # thin and pale, where two bundles lie side by side
        solid = 0.32 + 0.23 * tight + 0.07 * web + 0.06 * bundle + 0.06 * fibril + 0.02 * s.middle + 0.04 * s.fine
        solid = solid * (1 - 0.45 * seam)
        e = solid + cleft * (0.045 + strand - solid)
        h = blue * (0.08 - 0.035 * tight + 0.02 * s.coarse) * (1 + 0.6 * s.middle + 0.3 * patch) + 0.015
        return np.maximum(h * (1 - 0.9 * cleft), 0), np.maximum(e, 0.01)

    def _nearest_cell(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance (um) to the nearest nucleus' rim, the same for the next nearest, and which cell is nearest."""
        scale = self.mpp / _COARSE_UM
        near = self.near[:, ((rows + 0.5) * scale).astype(int).clip(0, self.near.shape[1] - 1)]
        at = ((self.columns + 0.5) * scale).astype(int).clip(0, near.shape[2] - 1)
        px = ((self.columns + 0.5) * self.mpp).astype(np.float32)
        py = ((rows + 0.5) * self.mpp).astype(np.float32)[:, None]
        first = np.full((len(rows), len(px)), 1e6, np.float32)
        second, cell = first.copy(), np.zeros(first.shape, np.int32)
        for who in near:  # (rows, coarse columns)
            dx, dy = px - self.x[who][:, at], py - self.y[who][:, at]
            far = dx * dx + dy * dy
            np.minimum(second, np.maximum(far, first), out=second)
            np.copyto(cell, who[:, at], where=far < first)
            np.minimum(first, far, out=first)
        size = self.size[cell]
        return np.sqrt(first) - size, np.sqrt(second) - size, cell

    def _cell_bodies(self, h: np.ndarray, e: np.ndarray, s: _Strip) -> tuple[np.ndarray, np.ndarray]:
        """Cytoplasm, granular or emptied, parted by membranes; inside structures it reaches up to the lumen."""
        first, second, cell = self._nearest_cell(s.rows)
        inside = self.epithelial[s.kind] * _step(s.depth, 1.0)
        lone = _step(self.reach[cell] - first + 0.8 * s.coarse, 2.5) * _step(-s.lumen, 1.0)
        own = inside + 0.75 * (1 - inside) * lone
        cell = np.where(inside > 0.5, self.host[cell], cell)
        clear, tumour = self.clear[s.owner], self.tumour[s.owner] * np.float32(self.traits.clefts)
        mesh = self._texture(foam(2.6, self.mpp, 1), s.rows, 7)
        mottle = 0.26 * s.fine + 0.4 * s.middle + 0.35 * s.coarse - 0.4 * (1 - mesh)
        hole = _step(self._texture(band(2.6, self.mpp, 8), s.rows, 9) - 2.9 + self.traits.vacuoles, 1.0)
        body = np.maximum(1 + self.grain[cell] * mottle, 0.05) * (1 - 0.7 * hole)
        gap = second - first
        membrane = _ridge(gap, 0.9) * self.border[cell] * (0.5 + 2.2 * clear)
        membrane = membrane * np.maximum(0.4 * clear, _step(s.coarse + 0.3 + 0.5 * clear, 1.2))  # in places only
        brush = 0.12 * _ridge(s.lumen + 0.6, 0.8)  # the surface towards a lumen is darker
        h = h + own * (self.cell_h[cell] * body * (1 - clear * (0.9 - 0.4 * mesh)) - h)
        e = e + own * (self.cell_e[cell] * body * (1 - clear * (0.97 - 0.55 * mesh)) + membrane + brush - e)
        e = e + 0.16 * _ridge(s.depth, 0.7) * (inside > 0)  # basement membrane
        apart = tumour * inside * _ridge(gap, 0.6) * _step(s.coarse + 0.5, 0.8)  # cells shrink from each other
        shrunk = (tumour > 0) * _step(s.coarse + 2.5 * self.traits.clefts - 1.6, 0.8)  # and nests from their stroma
        halo = shrunk * _ridge(s.depth + 1.6 + 0.7 * s.coarse, 0.8 + 0.5 * self.traits.clefts)
        kept = (1 - 0.8 * apart) * (1 - 0.92 * halo)
        return h * kept, e * kept

    def _spaces(self, h: np.ndarray, e: np.ndarray, s: _Strip) -> tuple[np.ndarray, np.ndarray]:
        """Lumens, alveoli, the fat in fat cells: glass, now and then with secretion."""
        mucin = self.mucin[s.owner]
        secretion = mucin * _step(0.4 * s.lumen - 4.0 + 1.8 * s.coarse + 3 * mucin, 4.0)
        grain = 0.10 * s.coarse + 0.09 * s.middle + 0.05 * s.fine
        content = 0.012 + secretion * (0.36 + self.curdled[s.owner] * grain)
        hollow = _step(s.lumen, 1.0)
        h, e = h + hollow * (0.008 + 0.05 * secretion - h), e + hollow * (content - e)
        fat = s.kind == KINDS.index("fat")
        rim, empty = fat * _ridge(s.depth, 0.5), fat * _step(s.depth - 0.6, 0.6)
        e = e + rim * np.clip(0.75 + 0.35 * s.coarse, 0.2, 1) * (0.40 - e)
        return h * (1 - empty), e * (1 - empty)
