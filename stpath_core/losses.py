"""Losses as pure functions of tensors: nuclei segmentation and typing (Part 1), expression of spots (Part 2).

Shapes: B images, K classes, (h, w) the output grid. Every function returns a scalar tensor; a batch in which a term is
undefined (no nucleus, no known label) gives an exact zero that still carries a gradient, so a step never becomes NaN.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

DEPTH_WEIGHT = 10.0  # the depth's mean square is about a tenth of the other terms together


def dice_loss(logits: Tensor, target: Tensor, eps: float = 1.0) -> Tensor:
    """1 - soft Dice of a binary map, over the whole batch.

    logits : (B, h, w); target : (B, h, w) in {0, 1}. Milletari et al. 2016, with additive smoothing `eps`.
    """
    p = logits.sigmoid()
    return 1 - (2 * (p * target).sum() + eps) / (p.sum() + target.sum() + eps)


def nucleus_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy + Dice of the nuclear pixel map (HoVer-Net, Graham et al. 2019, eq. 5 and 6).

    logits : (B, h, w); target : (B, h, w) in {0, 1}.
    """
    return F.binary_cross_entropy_with_logits(logits, target) + dice_loss(logits, target)


def distance_loss(pred: Tensor, target: Tensor, inside: Tensor, gradient_weight: float = 2.0) -> Tensor:
    """MSE of the three distance maps + MSE of the gradients of the first two, the latter inside nuclei only.

    pred, target : (B, 3, h, w), channels horizontal, vertical, depth; inside : (B, h, w) in {0, 1}.
    HoVer-Net eq. 3 and 4: each position map is differentiated along its own axis. Inside only, because the target
    jumps at a nuclear border against background, and a network that must copy that jump learns the border twice.
    Depth, which the nuclei are split by, counts as much as all position maps together.
    """
    error = pred - target  # (B, 3, h, w)
    mse = error[:, :2].square().mean()
    depth = error[:, 2].square().mean()
    dx = error[:, 0, :, 2:] - error[:, 0, :, :-2]  # (B, h, w - 2); the difference of errors is the error of differences
    dy = error[:, 1, 2:, :] - error[:, 1, :-2, :]  # (B, h - 2, w)
    mx, my = inside[:, :, 1:-1], inside[:, 1:-1, :]
    gradient = (dx.square() * mx).sum() / mx.sum().clamp(min=1) + (dy.square() * my).sum() / my.sum().clamp(min=1)
    return mse + gradient_weight * gradient + DEPTH_WEIGHT * depth


def type_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of nuclei over classes; unknown nuclei (label -1) take no part.

    logits : (n, K), one row per nucleus; labels : (n,) in -1..K-1; weight : (K,) class weights.
    """
    known = labels >= 0
    if not known.any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], labels[known], weight=weight)


def gene_pearson_loss(pred: Tensor, true: Tensor, group: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Minus the Pearson correlation per gene, mean over genes: CPNN's loss for spots.

    pred, true : (n, G). group : (n,) whole numbers; both sides are centred within each group, so that a batch of
    several sections teaches no offset between them. A gene that does not vary adds 0.
    """
    if group is None:
        pred, true = pred - pred.mean(0), true - true.mean(0)
    else:
        member = F.one_hot(group).to(pred.dtype)  # (n, groups)
        size = member.sum(0).clamp(min=1)[:, None]
        pred, true = (v - member @ (member.T @ v / size) for v in (pred, true))
    norms = pred.square().sum(0).sqrt() * true.square().sum(0).sqrt()
    return -((pred * true).sum(0) / (norms + eps)).mean()
