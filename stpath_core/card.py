"""Tiles cut from sections that lie on a GPU, a whole batch at a time.

Threads of a CPU cut and stain some twenty tiles a second each; a GPU that trains on hundreds waits for them. Here the
sections stay on the card, four bytes a pixel for the picture and four for the ids, and one gather serves all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Place(NamedTuple):
    """Where a tile lies: its section, centre and half its side in the section's pixels, cosine and sine of its angle
    over its zoom, -1 where it is mirrored, and displacements (1, 2, 6, 6) in pixels of the tile, or None."""

    section: int
    cy: float
    cx: float
    half: float
    cos: float
    sin: float
    flip: float
    bend: Tensor | None


def has_room(device: torch.device, n_bytes: int) -> bool:
    """Whether the device is a GPU that can hold so much in a quarter of its free memory, for a whole training."""
    return device.type == "cuda" and n_bytes < torch.cuda.mem_get_info(device)[0] / 4


def on_its_way(small: Tensor, device: torch.device) -> Tensor:
    """A tensor sent to a device; of a GPU nobody waits for the copy, nor for what was queued before it."""
    return small.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else small.to(device)


class TilesOnCard:
    """Sections of any sizes on one device.

    images : (3, H, W) uint8 each; ids : (1, H, W) float, whole numbers; size, stride : of a tile, px, and of the grid
    on which ids are read. `top` is the largest id.
    """

    def __init__(
        self, images: Sequence[Tensor], ids: Sequence[Tensor], size: int, stride: int, device: torch.device
    ) -> None:
        flat = [F.pad(image.flatten(1).T, (0, 1)).contiguous().view(torch.int32)[:, 0] for image in images]
        self.pixels = torch.cat(flat).to(device)  # (all pixels,): red, green, blue and nothing in four bytes
        self.ids = torch.cat([one.flatten().int() for one in ids]).to(device)
        shapes = torch.tensor([image.shape[1:] for image in images])
        starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
        self.shapes, self.starts = shapes.to(device), starts.to(device)
        self.top = int(self.ids.max())
        self.size, self.stride = size, stride

    def cut(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """Tiles (B, 3, S, S) float in [0, 255] and ids (B, S/stride, S/stride) int64, a tile at each place.

        The same resampling as of one tile on the CPU: bilinear for the picture, the nearest pixel for ids, mirrored
        where a tile looks over the edge of its section.
        """
        device = self.pixels.device
        numbers = torch.tensor([[p.section, p.cy, p.cx, p.cos, p.sin, p.flip] for p in places], dtype=torch.float32)
        bend = None if places[0].bend is None else on_its_way(torch.cat([p.bend for p in places]), device)
        numbers = on_its_way(numbers, device)
        section, numbers = numbers[:, 0].long(), numbers[:, 1:]
        shape, start = self.shapes[section][:, :, None, None], self.starts[section][:, None, None]  # (B, 2, 1, 1)
        fine = self._looked_at(self.size, numbers, bend, shape)  # (B, 2, S, S) rows and columns in a section
        coarse = fine if self.stride == 1 else self._looked_at(self.size // self.stride, numbers, bend, shape)

        first = fine.floor()
        part = (fine - first)[..., None]
        first = first.long()
        second = torch.minimum(first + 1, shape - 1)
        width = shape[:, 1]
        corners = [
            self.pixels[start + row * width + column].view(torch.uint8).view(*row.shape, 4).float()
            for row in (first[:, 0], second[:, 0])
            for column in (first[:, 1], second[:, 1])
        ]
        upper, lower = (torch.lerp(*corners[k : k + 2], part[:, 1]) for k in (0, 2))
        image = torch.lerp(upper, lower, part[:, 0])[..., :3].permute(0, 3, 1, 2)
        near = coarse.round().long()
        return image, self.ids[start + near[:, 0] * width + near[:, 1]].long()

    def _looked_at(self, n: int, numbers: Tensor, bend: Tensor | None, shape: Tensor) -> Tensor:
        """Where n x n points of each tile lie, (B, 2, n, n) rows and columns of its section, 0 a pixel's centre."""
        cy, cx, cos, sin, flip = numbers.T[:, :, None, None]  # (B, 1, 1) each
        t = (torch.arange(n, device=numbers.device) + 0.5) * (self.size / n) - self.size / 2
        y, x = t[:, None], t[None] * flip
        if bend is not None:
            moved = F.interpolate(bend, (n, n), mode="bicubic", align_corners=True)
            y, x = y + moved[:, 0], x + moved[:, 1]
        at = torch.stack([cy + sin * x + cos * y, cx + cos * x - sin * y], 1).abs()  # 0 is the edge of a section
        times = (at / shape).floor()
        at = at - times * shape
        at = torch.where(times % 2 == 1, shape - at, at) - 0.5
        return torch.minimum(at.clamp(min=0), shape - 1.0)
