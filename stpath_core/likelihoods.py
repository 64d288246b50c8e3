"""Likelihoods of counts, as pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def nb_log_likelihood(counts: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """log NB(counts | mean, theta), elementwise, with variance = mean + mean^2 / theta.

    counts, mean : of one shape, mean > 0; theta > 0 : inverse dispersion, broadcast to them. Computed in float32 or
    better; written with log1p, so that it tends to the Poisson as theta grows instead of losing its digits there.
    """
    counts, mean, theta = counts.float(), mean.float(), theta.float()
    # lgamma(x + theta) - lgamma(theta) loses its digits at large theta: beyond, x log(theta) + x (x - 1) / (2 theta)
    rising = torch.where(
        theta < 1e4,
        torch.lgamma(counts + theta.clamp(max=1e4)) - torch.lgamma(theta.clamp(max=1e4)),
        counts * theta.log() + counts * (counts - 1) / (2 * theta),
    )
    ratio = mean / theta
    return (
        rising
        - torch.lgamma(counts + 1)
        - theta * torch.log1p(ratio)
        + torch.xlogy(counts, mean)
        - counts * theta.log()
        - counts * torch.log1p(ratio)
    )


def zinb_log_likelihood(counts: Tensor, mean: Tensor, theta: Tensor, zero_logit: Tensor) -> Tensor:
    """log of a mixture: with probability sigmoid(zero_logit) a zero, else NB(counts | mean, theta); elementwise."""
    nb = nb_log_likelihood(counts, mean, theta)
    stays = -nn.functional.softplus(zero_logit)  # log(1 - p)
    return torch.where(counts > 0, stays + nb, torch.logaddexp(zero_logit + stays, stays + nb))
