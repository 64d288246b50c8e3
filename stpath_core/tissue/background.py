"""Everything between the nuclei: fibres and clefts of the stroma, cytoplasm and cell borders, lumens, fat, vessel walls."""

from __future__ import annotations

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.cell_types import CELL_TYPES, FINE_TYPES, REGIONS
from stpath_core.tissue.structures import GRID_UM, KINDS
from stpath_core.tissue.texture import DIRECTIONS, STRIP_PX, TILE_PX, Upsampler, band, fibres, foam, streaks, window

_COARSE_UM = 4.0
_NEAR = 4  # cells that may own a pixel
_CYTO = {name: np.array([getattr(CELL_TYPES[t].cytoplasm, name) for t in FINE_TYPES], np.float32)
         for name in CELL_TYPES["caf"].cytoplasm.__dataclass_fields__}  # fmt: skip


def paint_background(rng: np.random.Generator, arch: Architecture, *, mpp: float, shape: tuple[int, int]) -> tuple:
    """(H, W) float32 hematoxylin and eosin densities of all that is not nucleus."""
    h, e = np.empty(shape, np.float32), np.empty(shape, np.float32)
    painter = _Painter(rng, arch, mpp=mpp, width_px=shape[1])
    for top in range(0, shape[0], STRIP_PX):
        rows = np.arange(top, min(top + STRIP_PX, shape[0]))
        h[rows], e[rows] = painter.strip(rows)
    return h, e


def _step(value: np.ndarray, width: float) -> np.ndarray:
    """0 to 1 across `width` around zero."""
    return np.clip(0.5 + value / width, 0, 1)


class _Painter:
    def __init__(self, rng: np.random.Generator, arch: Architecture, *, mpp: float, width_px: int):
        self.mpp, self.layout, self.traits = mpp, arch.layout, arch.traits
        self.columns = np.arange(width_px)
        self.up = Upsampler(arch.region.shape, grid_um=GRID_UM, mpp=mpp, width_px=width_px)
        self.shift = rng.integers(0, 512, (16, 2))
        table = arch.layout.structures
        self.kind = table.kind.map(KINDS.index).to_numpy(np.uint8)
        self.ragged = np.array([k in ("gland", "solid") for k in KINDS], np.float32) * 0.8 + 0.2
        self.clear = table.clear.to_numpy(np.float32)
        self.mucin = (table.mucin.to_numpy() * rng.uniform(0, 1.6, len(table))).clip(0, 1).astype(np.float32)
        self.tumour = table.region.isin(["invasive", "in_situ"]).to_numpy(np.float32)
        plan = arch.traits.plan
        collagen = np.array([getattr(plan.compartments.get(r), "collagen", 0.5) for r in REGIONS], np.float32)
        self.collagen = ndi.uniform_filter(collagen[arch.layout.territory], 17) * np.float32(arch.traits.collagen)
        self.cos, self.sin = np.cos(2 * arch.layout.fibre), np.sin(2 * arch.layout.fibre)
        self._cells(rng, arch)

    def _cells(self, rng: np.random.Generator, arch: Architecture) -> None:
        """Centres of the cell bodies and, per coarse grid cell, the few that may own its pixels."""
        cells = arch.cells
        code = cells.cell_type.cat.codes.to_numpy()
        off = np.where(np.isin(code, [FINE_TYPES.index("plasma"), FINE_TYPES.index("macrophage")]), 2.0, 0.3)
        turn = rng.uniform(0, 2 * np.pi, len(cells))
        centre = cells[["x_um", "y_um"]].to_numpy() + off[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
        self.x, self.y = centre.astype(np.float32).T
        self.size = np.sqrt(cells.long_um * cells.short_um).to_numpy(np.float32)
        vary = np.exp(rng.normal(0, 0.15, (2, len(cells)))).astype(np.float32)
        self.cyto_e = _CYTO["eosin"][code] * vary[0]
        self.cyto_h = _CYTO["hematoxylin"][code] * vary[1] * arch.traits.basophilia
        self.reach, self.grain, self.border = (_CYTO[k][code] for k in ("radius_um", "grain", "border"))
        width, height = arch.size_um
        gx, gy = np.meshgrid(np.arange(0, width, _COARSE_UM) + _COARSE_UM / 2, np.arange(0, height, _COARSE_UM) + _COARSE_UM / 2)
        near = cKDTree(centre).query(np.stack([gx, gy], -1), k=min(_NEAR, len(cells)))[1].reshape(*gx.shape, -1)
        self.near = np.moveaxis(near, -1, 0).astype(np.int32)  # (4, coarse rows, coarse columns)

    def texture(self, tile: np.ndarray, rows: np.ndarray, number: int) -> np.ndarray:
        return window(tile, rows, self.columns, shift=self.shift[number])

    def strip(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        layout, mpp = self.layout, self.mpp
        depth = self.up.linear(layout.depth, rows)
        lumen = self.up.linear(layout.lumen, rows)
        owner = self.up.nearest(layout.structure, rows)
        kind = self.kind[owner]
        fine = self.texture(band(0.5, mpp, 2), rows, 0)
        middle = self.texture(band(1.5, mpp, 7), rows, 6)
        coarse = self.texture(band(5.0, mpp, 3), rows, 1)
        ragged = self.ragged[kind] * (0.7 * coarse + 0.25 * middle)
        depth, lumen = depth + 0.4 * ragged, lumen + ragged
        h, e = self._stroma(rows, fine, middle, coarse)
        first, second, cell = self._nearest_cell(rows)
        h, e = self._cytoplasm(h, e, depth, lumen, owner, kind, first, second, cell, fine, middle, coarse, rows)
        patch = self.texture(band(40.0, mpp, 9), rows, 8)
        tone = np.maximum(0.96 + 0.06 * patch + 0.03 * coarse, 0.3) ** 2  # no section is evenly stained
        return self._spaces(h * tone, e * tone, depth, lumen, owner, kind, fine, middle, coarse)

    def _stroma(self, rows, fine, middle, coarse):
        """Collagen along the fibre direction: dense bundles with lens-shaped clefts, or loose strands on glass."""
        mpp = self.mpp
        wave = [self.texture(band(24.0, mpp, k), rows, 2 + k) for k in (0, 1)]
        column = (self.columns + self.shift[4, 0] + (2.6 / mpp) * wave[0]).astype(np.int32) % TILE_PX
        row = (rows[:, None] + self.shift[4, 1] + (2.6 / mpp) * wave[1]).astype(np.int32) % TILE_PX
        pixel = row * TILE_PX + column
        turn = np.arctan2(self.up.linear(self.sin, rows), self.up.linear(self.cos, rows))
        turn = (turn * (0.5 * DIRECTIONS / np.pi)) % DIRECTIONS
        bundle = streaks(fibres(3.0, 26.0, mpp, 1), turn, pixel)
        fibril = streaks(fibres(0.9, 16.0, mpp, 2), turn, pixel)
        half = ((row >> 1) * TILE_PX + (column >> 1)) ^ (TILE_PX // 2)
        web = streaks(fibres(3.0, 26.0, mpp, 1), turn, half)  # the same streaks, twice as wide
        patch = self.texture(band(30.0, mpp, 6), rows, 5)
        collagen = self.up.linear(self.collagen, rows) + 0.22 * patch
        muscle = _step(self.up.linear(self.layout.muscle, rows), 0.6)
        tight = np.clip(np.maximum(collagen, muscle * 0.85), 0, 1.1)
        cleft = _step(bundle + 0.25 * fibril - (2.6 * tight - 0.6), 0.45)
        strand = 1.3 * np.exp(-(((web + 0.3 * coarse) / 0.16) ** 2)) + 0.5 * np.exp(-((fibril / 0.3) ** 2)) * (coarse > 0.4)
        solid = 0.32 + 0.27 * tight + 0.08 * bundle + 0.10 * fibril + 0.04 * middle + 0.04 * fine
        e = solid + cleft * (0.045 + 0.3 * strand - solid)
        h = 0.015 + (0.08 - 0.035 * tight + 0.02 * coarse) * self.traits.basophilia * (1 + 0.6 * middle + 0.3 * patch) * (1 - 0.5 * cleft)
        return np.maximum(h, 0), np.maximum(e, 0.01)

    def _nearest_cell(self, rows):
        """Distance (um) from the rims of the nearest and the second nearest nucleus, and which cell is nearest."""
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

    def _cytoplasm(self, h, e, depth, lumen, owner, kind, first, second, cell, fine, middle, coarse, rows):
        """Cell bodies: granular or emptied, parted by membranes; inside structures they fill everything up to the lumen."""
        inside = _step(depth, 1.0) * np.isin(kind, [KINDS.index(k) for k in ("gland", "solid", "glomerulus")])
        bare = self.texture(foam(2.6, self.mpp, 1), rows, 4)
        clear = self.clear[owner]
        grain = self.grain[cell]
        grain = 1 + grain * (0.3 * fine + 0.65 * middle + 0.35 * coarse) - (1 - bare) * grain * 0.7
        hole = _step(self.texture(band(2.6, self.mpp, 8), rows, 7) - 2.9 + self.traits.vacuoles, 1.0)
        grain = np.maximum(grain, 0.05) * (1 - 0.7 * hole)
        body_e = self.cyto_e[cell] * grain * (1 - clear * (0.97 - 0.55 * bare))
        body_h = self.cyto_h[cell] * grain * (1 - clear * (0.9 - 0.4 * bare))
        wall = np.exp(-(((second - first) / 0.9) ** 2))
        body_e = body_e + wall * self.border[cell] * (0.5 + 2.2 * clear) * np.maximum(clear, _step(coarse + 0.8, 1.0))
        brush = np.exp(-(((lumen + 0.6) / 0.8) ** 2)) * 0.12
        own = inside + (1 - inside) * _step(self.reach[cell] - first + 0.8 * coarse, 2.5) * _step(-lumen, 1.0) * 0.75
        h = h + own * (body_h - h)
        e = e + own * (body_e + brush - e)
        e = e + np.exp(-((depth / 0.7) ** 2)) * (inside > 0) * 0.16
        shrunk = _step(coarse + 2.5 * self.traits.clefts - 1.6, 0.8) * self.tumour[owner]
        e = e * (1 - 0.9 * self.traits.clefts * self.tumour[owner] * inside * np.exp(-(((second - first) / 0.6) ** 2)) * _step(coarse + 0.5, 0.8))
        halo = np.exp(-(((depth + 1.6 + 0.7 * coarse) / (0.8 + 0.5 * self.traits.clefts)) ** 2)) * shrunk
        return h, e * (1 - 0.92 * halo)

    def _spaces(self, h, e, depth, lumen, owner, kind, fine, middle, coarse):
        """Lumens, alveoli, the fat in fat cells: glass, now and then with secretion."""
        open_ = _step(lumen, 1.0)
        mucin = self.mucin[owner]
        secretion = mucin * _step(0.4 * lumen - 2.5 + 1.8 * coarse + 3 * (mucin - 0.5), 4.0)
        inside_e = 0.012 + secretion * (0.36 + 0.10 * coarse + 0.09 * middle + 0.05 * fine)
        inside_h = 0.008 + secretion * 0.05
        h, e = h + open_ * (inside_h - h), e + open_ * (inside_e - e)
        fat = kind == KINDS.index("fat")
        rim = fat * np.exp(-((depth / 0.55) ** 2))
        empty = fat * _step(depth - 0.6, 0.6)
        e = e + rim * (0.42 - e)
        return h + empty * (0.005 - h), e + empty * (0.01 - e)
