"""Likelihoods of counts, as pure functions of tensors.

With r = log(mean / theta) the negative binomial of mean `mean` and variance mean + mean^2 / theta is

    log NB(x) = [x r - (x + theta) log(1 + e^r)]  +  [lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)]

The first bracket depends on the spot and costs two cheap functions an element. The second is 0 where x is 0 and knows
only the gene's theta, so over a data set it needs how often a gene has which count, not one evaluation per entry:
`count_table` counts, `nb_count_term` sums. Training pays for the first bracket alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGE_THETA = 1e4  # beyond, a difference of two lgamma loses its digits in float32
NEAR = 48  # counts up to here are summed step by step
ROWS = 128  # spots of which a CPU takes layer, likelihood and gradient at once


class CountTable(NamedTuple):
    """What the second bracket needs of a data set of n spots.

    above (G, NEAR): share of the spots whose count of the gene exceeds 0, 1, 2, ... gene, value, share (m,): the
    distinct pairs of gene and count beyond NEAR, and the share of the spots that hold them. fixed (): mean over spots
    of lgamma(x + 1), summed over genes.
    """

    above: Tensor
    gene: Tensor
    value: Tensor
    share: Tensor
    fixed: Tensor


def count_table(counts: Tensor) -> CountTable:
    """counts (n, G) raw -> what `nb_count_term` needs of them."""
    (n, genes), wide = counts.shape, NEAR + 1
    n = max(n, 1)
    cell = counts.long().clamp(max=NEAR) + wide * torch.arange(genes, device=counts.device)
    times = torch.bincount(cell.flatten(), minlength=genes * wide).view(genes, wide)  # spots of each gene and count
    above = (times.flip(1).cumsum(1).flip(1))[:, 1:] / n  # (G, NEAR)
    spot, gene = (counts > NEAR).nonzero(as_tuple=True)
    value = counts[spot, gene].long()
    width = int(value.max()) + 1 if len(value) else 1
    pair, times = torch.unique(gene * width + value, return_counts=True)
    fixed = torch.lgamma(counts.double() + 1).sum() / n
    return CountTable(above, pair // width, (pair % width).float(), times.float() / n, fixed.float())


def nb_count_term(table: CountTable, theta: Tensor) -> Tensor:
    """Mean over spots of the second bracket, summed over genes: a scalar. theta : (G,).

    lgamma(x + theta) - lgamma(theta) is log theta + log(theta + 1) + ... + log(theta + x - 1), so the counts up to NEAR
    need one logarithm per gene and step, whatever the number of spots; what is beyond goes on from theta + NEAR.
    """
    steps = torch.arange(NEAR, device=theta.device)
    near = (table.above * (theta[:, None] + steps).log()).sum()
    far = (table.share * _rising(table.value - NEAR, theta[table.gene] + NEAR)).sum()
    return near + far - table.fixed


def nb_spot_term(counts: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """The first bracket, elementwise: (B, G). log_theta : (G,)."""
    r = log_mean - log_theta
    return counts * r - (counts + log_theta.exp()) * F.softplus(r)


class _NBProfileMean(torch.autograd.Function):
    """`nb_profile_mean` with its gradient written out, and taken on the way: layer, softmax and likelihood share one
    exponential and one logarithm an element, and of the many (B, G) between them none has to leave the cache."""

    @staticmethod
    def forward(ctx, counts: Tensor, h: Tensor, weight: Tensor, bias: Tensor, library: Tensor, log_theta: Tensor):
        n, genes = counts.shape
        rows = min(n, ROWS) if counts.device.type == "cpu" else n
        theta = log_theta.exp()
        per_theta, space, ones = 1 / theta, h.new_empty(3, rows, genes), h.new_ones(rows)
        of_h, of_weight = torch.empty_like(h), torch.zeros_like(weight)
        of_bias, of_mean, of_soft = h.new_zeros(3, genes)
        values = []
        for start in range(0, n, rows):
            x, at, size = counts[start : start + rows], library[start : start + rows], min(rows, n - start)
            some, (logits, ratio, soft), one = h[start : start + rows], space[:, :size], ones[:size]
            torch.addmm(bias, some, weight.t(), out=logits)
            top = logits.amax(1, keepdim=True)
            torch.sub(logits, top, out=ratio).exp_()
            total = ratio.sum(1, keepdim=True)
            ratio.mul_(at / total).mul_(per_theta)  # e^r = mean / theta
            torch.log1p(ratio, out=soft)  # log(1 + e^r)
            shift = (at.log() - total.log() - top).squeeze(1)  # log mean = logits + shift
            values.append(torch.linalg.vecdot(x, logits.sub_(soft)) + x.sum(1) * shift - x @ log_theta - soft @ theta)
            of_soft.addmv_(soft.t(), one)
            mean = torch.mul(ratio, theta, out=logits)
            # of r: x - (x + theta) s, where s = ratio / (ratio + 1)
            gradient = torch.sub(x, mean, out=soft).div_(ratio.add_(1))
            of_mean.addmv_(gradient.t(), one)
            gradient.addcmul_(mean, gradient.sum(1, keepdim=True) / at, value=-1)  # of the logits: less softmax's share
            of_bias.addmv_(gradient.t(), one)
            of_weight.addmm_(gradient.t(), some)
            torch.mm(gradient, weight, out=of_h[start : start + rows])
        ctx.save_for_backward(of_h, of_weight, of_bias, -of_mean - theta * of_soft)
        return torch.cat(values).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        share = upstream / len(ctx.saved_tensors[0])
        of_h, of_weight, of_bias, of_theta = (of * share for of in ctx.saved_tensors)
        return None, of_h, of_weight, of_bias, None, of_theta


def nb_profile_mean(
    counts: Tensor, h: Tensor, weight: Tensor, bias: Tensor, library: Tensor, log_theta: Tensor
) -> Tensor:
    """The first bracket summed over genes, its mean over spots, where log mean = log library + log softmax(h W' + b).

    For training. counts : (B, G). h : (B, H), what the decoder's last layer reads. weight, bias : (G, H) and (G,), of
    that layer. library : (B, 1), through which no gradient flows. log_theta : (G,).
    """
    h = h.float() if h.dtype == torch.bfloat16 else h
    with torch.autocast(h.device.type, enabled=False):
        return _NBProfileMean.apply(counts, h, weight, bias, library, log_theta)


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
    """lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)."""
    return _rising(value, theta) - torch.lgamma(value + 1)


def _rising(value: Tensor, theta: Tensor) -> Tensor:
    """lgamma(x + theta) - lgamma(theta); for large theta by Stirling's series, whose large terms cancel on paper."""
    small, large = theta.clamp(max=LARGE_THETA), theta.clamp(min=LARGE_THETA)
    above = (value + large - 0.5) * (value / large).log1p() - value + (1 / (value + large) - 1 / large) / 12
    return torch.where(
        theta < LARGE_THETA, torch.lgamma(value + small) - torch.lgamma(small), value * large.log() + above
    )
