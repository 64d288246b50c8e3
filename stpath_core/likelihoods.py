"""Likelihoods of counts, as pure functions of tensors.

With r = log(mean / theta) the negative binomial of mean `mean` and variance mean + mean^2 / theta is

    log NB(x) = [x r - (x + theta) log(1 + e^r)]  +  [lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)]

The first bracket depends on the spot and costs two cheap functions an element. The second is 0 where x is 0 and knows
only the gene's theta, so over a data set it needs one evaluation per *distinct* (gene, count), not one per entry:
`count_table` lists them, `nb_count_term` sums them. Training pays for the first bracket alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LARGE_THETA = 1e4  # beyond, a difference of two lgamma loses its digits in float32


class CountTable(NamedTuple):
    """The distinct counts of each gene: gene (m,), value (m,) > 0, share (m,) of the spots that hold it."""

    gene: Tensor
    value: Tensor
    share: Tensor


def count_table(counts: Tensor) -> CountTable:
    """counts (n, G) raw -> its distinct pairs of gene and count."""
    spot, gene = counts.nonzero(as_tuple=True)
    value = counts[spot, gene].long()
    width = int(value.max()) + 1 if len(value) else 1
    pair, times = torch.unique(gene * width + value, return_counts=True)
    return CountTable(pair // width, (pair % width).float(), times.float() / max(len(counts), 1))


def nb_count_term(table: CountTable, theta: Tensor) -> Tensor:
    """Mean over spots of the second bracket, summed over genes: a scalar. theta : (G,)."""
    return (table.share * _count_term(table.value, theta[table.gene])).sum()


def nb_spot_term(counts: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """The first bracket, elementwise: (B, G). log_theta : (G,)."""
    r = log_mean - log_theta
    return counts * r - (counts + log_theta.exp()) * F.softplus(r)


class _NBSpotSum(torch.autograd.Function):
    """`nb_spot_term` summed over genes, with its gradient written out: a third of the passes over (B, G)."""

    @staticmethod
    def forward(ctx, counts: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
        r, theta = log_mean - log_theta, log_theta.exp()
        soft = F.softplus(r)  # log(1 + e^r)
        ctx.save_for_backward(counts, r, soft, theta)
        return torch.einsum("bg,bg->b", counts, r - soft) - soft @ theta  # (B,)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        counts, r, soft, theta = ctx.saved_tensors
        of_mean = (counts + theta).mul_(r.sigmoid()).neg_().add_(counts).mul_(gradient[:, None])  # x - (x + theta) s
        return None, of_mean, -of_mean.sum(0) - theta * (gradient @ soft)


def nb_spot_sum(counts: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """The first bracket summed over genes: (B,). As `nb_spot_term(...).sum(1)`, for training."""
    return _NBSpotSum.apply(counts, log_mean, log_theta)


def nb_log_likelihood(counts: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """log NB(counts), elementwise: both brackets. counts, log_mean : (B, G); log_theta : (G,)."""
    theta = log_theta.exp().expand_as(log_mean)
    return nb_spot_term(counts, log_mean, log_theta) + _count_term(counts, theta)


def zinb_spot_term(counts: Tensor, log_mean: Tensor, log_theta: Tensor, zero_logit: Tensor) -> Tensor:
    """The same for a mixture: with probability sigmoid(zero_logit) a zero, else the negative binomial."""
    stays = -F.softplus(zero_logit)  # log(1 - p)
    counted = stays + nb_spot_term(counts, log_mean, log_theta)
    return torch.where(counts > 0, counted, torch.logaddexp(zero_logit + stays, counted))


def zinb_log_likelihood(counts: Tensor, log_mean: Tensor, log_theta: Tensor, zero_logit: Tensor) -> Tensor:
    """log ZINB(counts), elementwise. The second bracket is 0 at a zero, so it is added as it stands."""
    theta = log_theta.exp().expand_as(log_mean)
    return zinb_spot_term(counts, log_mean, log_theta, zero_logit) + _count_term(counts, theta)


def _count_term(value: Tensor, theta: Tensor) -> Tensor:
    """lgamma(x + theta) - lgamma(theta) - lgamma(x + 1); for large theta by its expansion, x log theta + x (x - 1) / 2
    theta."""
    small = theta.clamp(max=LARGE_THETA)
    rising = torch.where(
        theta < LARGE_THETA,
        torch.lgamma(value + small) - torch.lgamma(small),
        value * theta.log() + value * (value - 1) / (2 * theta),
    )
    return rising - torch.lgamma(value + 1)
