"""Augmentation of H&E on the device the batch lies on: stain, light, focus, noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stpath_core.card import on_its_way
from stpath_core.stain import STAIN_AXES

STAINS = torch.tensor(STAIN_AXES, dtype=torch.float32)


def stain_augment(image: Tensor, rng: torch.Generator, *, strength: float = 0.15) -> Tensor:
    """Vary stain strength and hue, gamma, focus and noise, one draw per image.

    image : (B, 3, H, W) float in [0, 1]; returns the same. rng : of the CPU; on a GPU the noise of the pixels is the
    GPU's own, seeded by it. The stain step scales and shifts each stain's optical density (Tellez et al. 2018) and
    bends the stain vectors a little; `strength` is its standard deviation.
    """
    b = len(image)
    normal = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    bend = torch.eye(3) + 0.05 * normal(b, 3, 3)
    scale = torch.diag_embed(torch.exp(strength * normal(b, 3)))
    mix = torch.linalg.inv(STAINS)[None] @ scale @ STAINS[None] @ bend  # density rows -> density rows
    shift = 0.05 * normal(b, 3, 1, 1)
    focus = (torch.rand(b, 1, 1, 1, generator=rng) * 2.0 - 0.8).clamp(max=1.0)  # below 0: a little unsharp masking
    noise = 0.03 * torch.rand(b, 1, 1, 1, generator=rng)
    if image.is_cuda:
        own = torch.Generator(image.device).manual_seed(int(torch.randint(2**62, (), generator=rng)))
        drawn = on_its_way(torch.cat([v.reshape(b, -1) for v in (mix, shift, focus, noise)], 1), image.device)
        mix, shift, focus, noise = drawn.split((9, 3, 1, 1), 1)
        mix, shift = mix.reshape(b, 3, 3), shift.reshape(b, 3, 1, 1)
        focus, noise = focus.reshape(b, 1, 1, 1), noise.reshape(b, 1, 1, 1)
        return _restained(image, mix, shift, focus, noise, torch.randn(image.shape, generator=own, device=image.device))
    out = torch.empty_like(image)
    for k in range(b):  # one by one: what lies between stays in the cache, and threads do not wait for new memory
        one = image[k : k + 1]
        out[k : k + 1] = _restained(one, mix[k : k + 1], shift[k], focus[k], noise[k], normal(*one.shape))
    return out


def _restained(image: Tensor, mix: Tensor, shift: Tensor, focus: Tensor, noise: Tensor, grain: Tensor) -> Tensor:
    density = image.clamp(min=1 / 255).log_().neg_()  # (B, 3, H, W)
    density = torch.einsum("bchw,bcd->bdhw", density, mix) + shift
    seen = density.clamp_(min=0, max=6).neg_().exp_()
    seen = seen + _mean_of_nine(seen).sub_(seen).mul_(focus)
    return seen.add_(grain.mul_(noise)).clamp_(0, 1)


def _mean_of_nine(image: Tensor) -> Tensor:
    """Each pixel with its eight neighbours, mirrored at the border; five times as fast as pooling on a CPU."""
    x = F.pad(image, (1, 1, 1, 1), mode="reflect")
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9
