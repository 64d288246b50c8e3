"""Everything between the nuclei: fibres and clefts of the stroma, cytoplasm and cell borders, lumens, fat, vessel walls."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from stpath_core.tissue.architecture import Architecture
from stpath_core.tissue.cell_types import CELL_TYPES, FINE_TYPES, REGIONS
from stpath_core.tissue.structures import GRID_UM, KINDS
from stpath_core.tissue.texture import Upsampler, along, band, foam, line, window

_STRIP_PX = 128  # rows painted at a time, to stay inside the cache
_COARSE_UM = 4.0
_NEAR = 4  # cells that may own a pixel
_CYTO = {name: np.array([getattr(CELL_TYPES[t].cytoplasm, name) for t in FINE_TYPES], np.float32)
         for name in CELL_TYPES["caf"].cytoplasm.__dataclass_fields__}  # fmt: skip


def paint_background(rng: np.random.Generator, arch: Architecture, *, mpp: float, shape: tuple[int, int]) -> tuple:
    """(H, W) float32 hematoxylin and eosin densities of all that is not nucleus."""
    h, e = np.empty(shape, np.float32), np.empty(shape, np.float32)
    painter = _Painter(rng, arch, mpp=mpp, width_px=shape[1])
    for top in range(0, shape[0], _STRIP_PX):
        rows = np.arange(top, min(top + _STRIP_PX, shape[0]))
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
        self.clear = table.clear.to_numpy(np.float32)
        self.mucin = (table.mucin.to_numpy() * rng.uniform(0, 1.6, len(table))).clip(0, 1).astype(np.float32)
        self.tumour = table.region.isin(["invasive", "in_situ"]).to_numpy(np.float32)
        plan = arch.traits.plan
        self.collagen = np.array([getattr(plan.compartments.get(r), "collagen", 0.5) for r in REGIONS], np.float32)
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
        vary = np.exp(rng.normal(0, 0.12, (2, len(cells)))).astype(np.float32)
        self.cyto_e = _CYTO["eosin"][code] * vary[0]
        self.cyto_h = _CYTO["hematoxylin"][code] * vary[1] * arch.traits.basophilia
        self.reach, self.grain, self.border = (_CYTO[k][code] for k in ("radius_um", "grain", "border"))
        width, height = arch.size_um
        gx, gy = np.meshgrid(np.arange(0, width, _COARSE_UM) + _COARSE_UM / 2, np.arange(0, height, _COARSE_UM) + _COARSE_UM / 2)
        near = min(_NEAR, len(cells))
        self.near = cKDTree(centre).query(np.stack([gx, gy], -1), k=near)[1].reshape(*gx.shape, near).astype(np.int32)

    def texture(self, tile: np.ndarray, rows: np.ndarray, number: int) -> np.ndarray:
        return window(tile, rows, self.columns, shift=self.shift[number])

    def strip(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        layout, mpp = self.layout, self.mpp
        depth = self.up.linear(layout.depth, rows)
        lumen = self.up.linear(layout.lumen, rows)
        owner = self.up.nearest(layout.structure, rows)
        kind = self.kind[owner]
        fine = self.texture(band(1.0, mpp, 2), rows, 0)
        coarse = self.texture(band(5.0, mpp, 3), rows, 1)
        h, e = self._stroma(rows, depth, fine, coarse)
        first, second, cell = self._nearest_cell(rows)
        h, e = self._cytoplasm(h, e, depth, lumen, owner, kind, first, second, cell, fine, rows)
        return self._spaces(h, e, depth, lumen, owner, kind, fine, coarse)

    def _stroma(self, rows, depth, fine, coarse):
        """Collagen: bundles and fibrils along the level lines of the flow, white clefts where a bundle ends."""
        collagen = self.up.linear(self.collagen[self.layout.territory], rows) * self.traits.collagen
        muscle = _step(self.up.linear(self.layout.muscle, rows), 0.6)
        flow = self.up.linear(self.layout.flow, rows)
        wave = self.texture(band(14.0, self.mpp, 4), rows, 2)
        flow = flow + 3.2 * wave + 0.7 * self.texture(band(4.0, self.mpp, 5), rows, 3)
        bundle = along(line(7.0, 1), flow) + 0.6 * coarse
        fibril = along(line(1.7, 2), flow + 0.5 * coarse)
        dense = np.clip(collagen, 0, 1.2)
        e = 0.14 + 0.42 * dense + (0.10 + 0.06 * dense) * bundle + 0.09 * fibril + 0.03 * fine
        cleft = _step(bundle + 0.5 * fibril + 1.35 + 1.2 * (dense - 0.5), 0.9)
        e = e * (0.12 + 0.88 * cleft)
        smooth = 0.58 + 0.05 * bundle + 0.07 * fibril
        e = e + muscle * (smooth - e)
        h = 0.035 + 0.02 * fibril + 0.02 * coarse + 0.03 * self.traits.basophilia
        return np.maximum(h, 0), np.maximum(e, 0.01)

    def _nearest_cell(self, rows):
        """Distance (um) from the nearest and the second nearest nucleus' rim, and which cell is nearest."""
        scale = self.mpp / _COARSE_UM
        near = self.near[((rows + 0.5) * scale).astype(int).clip(0, self.near.shape[0] - 1)]
        near = near[:, ((self.columns + 0.5) * scale).astype(int).clip(0, self.near.shape[1] - 1)]  # (rows, W, 4)
        px = ((self.columns + 0.5) * self.mpp).astype(np.float32)
        py = ((rows + 0.5) * self.mpp).astype(np.float32)[:, None]
        first = np.full(near.shape[:2], 1e3, np.float32)
        second, cell = first.copy(), near[..., 0]
        for k in range(near.shape[-1]):
            who = near[..., k]
            far = np.hypot(px - self.x[who], py - self.y[who]) - self.size[who]
            closer = far < first
            second = np.where(closer, first, np.minimum(second, far))
            cell = np.where(closer, who, cell)
            first = np.minimum(first, far)
        return first, second, cell

    def _cytoplasm(self, h, e, depth, lumen, owner, kind, first, second, cell, fine, rows):
        inside = _step(depth, 1.2) * np.isin(kind, [KINDS.index(k) for k in ("gland", "solid", "glomerulus")])
        bare = self.texture(foam(3.2, self.mpp, 1), rows, 4)
        clear = self.clear[owner]
        grain = 1 + self.grain[cell] * 0.6 * (fine - clear * 0.5)
        body_e = self.cyto_e[cell] * grain * (1 - clear * (0.97 - 0.55 * bare))
        body_h = self.cyto_h[cell] * grain * (1 - clear * (0.9 - 0.4 * bare))
        wall = np.exp(-(((second - first) / 1.1) ** 2))
        body_e = body_e + wall * (self.border[cell] * (0.5 + 1.6 * clear))
        brush = np.exp(-(((lumen + 0.6) / 0.9) ** 2)) * 0.12
        own = inside + (1 - inside) * _step(self.reach[cell] - first, 1.0) * _step(-lumen, 1.0) * 0.9
        h = h + own * (body_h - h)
        e = e + own * (body_e + brush - e)
        membrane = np.exp(-((depth / 0.8) ** 2)) * (inside > 0) * 0.16
        e = e + membrane
        halo = np.exp(-(((depth + 2.2) / 1.6) ** 2)) * self.tumour[owner] * self.traits.clefts
        return h, e * (1 - 0.9 * halo)

    def _spaces(self, h, e, depth, lumen, owner, kind, fine, coarse):
        """Lumens, alveoli, the fat in fat cells: glass, now and then with secretion."""
        open_ = _step(lumen, 0.9)
        secretion = self.mucin[owner] * _step(coarse + self.mucin[owner] * 3 - 1.6, 1.0)
        inside_e = 0.015 + secretion * (0.32 + 0.05 * fine)
        inside_h = 0.01 + secretion * 0.05
        h, e = h + open_ * (inside_h - h), e + open_ * (inside_e - e)
        fat = (kind == KINDS.index("fat")) * _step(depth - 0.1, 0.9)
        return h + fat * (0.005 - h), e + fat * (0.01 - e)
