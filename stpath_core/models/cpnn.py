"""CPNN: cell-type prototypes for expression from pathology (arXiv 2603.18461), for slides and for spots.

The image decides the mixture, single cells decide what is mixed. A patch's features h give weights over cell types,
w = softmax(MLP(h)); a type contributes w_c exp(L_c), where L starts at the log of its prototype and may move.

    slide   y_g = mean_i(exp(a_g) sum_c w_ic exp(L_cg) + exp(c_g)),  rho = y / sum_g y,  counts ~ NB(rho * library)
    spot    z_g = log1p(sum_c w_c exp(L_cg)), trained by correlation; a and c are dropped, because it sees no scale

Both share `mixture`. Ablations are what is passed in: random profiles, trainable=False, correction=False, a weight 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stpath_core.errors import InputError
from stpath_core.likelihoods import nb_log_likelihood
from stpath_core.losses import gene_pearson_loss
from stpath_core.models.expression_networks import DROPOUT, trunk

PER = 1e4  # prototypes are kept as counts per 10,000, the unit of the target
FLOOR = 1e-3  # of those, so that log L is finite
SMALLEST = 1e-10  # the additive correction starts at its logarithm


@dataclass(frozen=True)
class Regularisers:
    """How much each is worth beside a loss of order 1 (a correlation, or an NB likelihood per count and gene).

    weights : Kullback-Leibler divergence of the weights from the deconvolved shares, per row. prototypes : mean square
    of what L has moved. The published form is a mean square beside a likelihood of 1e5, where its weight of 1e3 is
    hardly seen.
    """

    weights: float = 5.0
    prototypes: float = 0.01


class CPNN(nn.Module):
    """Weights from patches, expression from weights.

    features : d. profiles : (C, G) positive, any scale per row kept: rows are what a cell (or a unit of mRNA) of each
    type adds, in counts per 10,000. widths : of the two hidden layers, 1024 and 512 in the paper. sensitivity : (G,)
    gene factors m of the deconvolution, where `correction` starts. level : of features relative to a section, see
    `trunk`.
    """

    def __init__(
        self,
        features: int,
        profiles: Tensor,
        *,
        widths: tuple[int, int] = (1024, 512),
        dropout: float = DROPOUT,
        trainable: bool = True,
        correction: bool = True,
        level: bool = False,
        sensitivity: Tensor | None = None,
    ) -> None:
        super().__init__()
        profiles = torch.as_tensor(profiles, dtype=torch.float32)
        if profiles.ndim != 2 or not bool((profiles > 0).all()):
            message = f"profiles have shape {tuple(profiles.shape)}; expected (types, genes), all above 0"
            raise InputError(message)
        types, genes = profiles.shape
        self.before, self.after = nn.Dropout(dropout), nn.Dropout(dropout)
        self.trunk = trunk(features, widths, level=level)
        self.head = nn.Linear(widths[1], types)
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        start = profiles.clamp(min=FLOOR).log()
        self.log_profiles = nn.Parameter(start.clone(), requires_grad=trainable)  # L, (C, G)
        self.register_buffer("start", start)
        self.correction = correction
        factor = torch.ones(genes) if sensitivity is None else torch.as_tensor(sensitivity, dtype=torch.float32)
        self.log_factor = nn.Parameter(factor.clamp(min=1e-4).log(), requires_grad=correction)  # a
        self.log_added = nn.Parameter(torch.full((genes,), math.log(SMALLEST)), requires_grad=correction)  # c
        self.log_theta = nn.Parameter(torch.full((genes,), 2.0))  # dispersion of the likelihood

    def weights(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., C), rows sum to 1."""
        return self.head(self.after(self.trunk(self.before(x)))).softmax(-1)

    def mixture(self, w: Tensor) -> Tensor:
        """(..., C) -> (..., G) expression of the mixture, before any correction."""
        return w @ self.log_profiles.exp()

    def spot(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, G) on the scale of log1p CP10K."""
        return self.mixture(self.weights(x)).log1p()

    def slide(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Bags x (B, N, d), mask (B, N) of real patches -> profile rho (B, G), rows sum to 1, and mean weights (B, C).

        The mean over patches is taken of the weights: the mixture is linear in them, so it is the mean of the mixtures.
        """
        w = self.weights(x) * mask[..., None]  # (B, N, C)
        w = w.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)  # (B, C)
        y = self.corrected(self.mixture(w))
        return y / y.sum(1, keepdim=True), w

    def corrected(self, mixture: Tensor) -> Tensor:
        """Gene by gene: exp(a) mixture + exp(c)."""
        return mixture * self.log_factor.exp() + self.log_added.exp() if self.correction else mixture

    forward = spot

    def moved(self) -> Tensor:
        """(C, G) how far training has moved L, natural logarithm."""
        return self.log_profiles - self.start

    def begin_at(self, shares: Tensor) -> None:
        """Let the weights start at the mean shares (C,) of the training data, the same for every patch.

        From a random start a network that has learned nothing answers with a pattern, and a pattern has a correlation.
        """
        with torch.no_grad():
            self.head.bias.copy_(shares.clamp(min=1e-3).log())
            self.head.weight.zero_()


def divergence(shares: Tensor, w: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of w (n, C) from shares (n, C)."""
    return (shares * ((shares + 1e-6).log() - (w + 1e-9).log())).sum(1).mean()


def spot_loss(model: CPNN, x: Tensor, y: Tensor, shares: Tensor | None, reg: Regularisers) -> Tensor:
    """Of the spots of one section: x (n, d), y (n, G) log1p CP10K, shares (n, C) deconvolved or None."""
    w = model.weights(x)
    loss = gene_pearson_loss(model.mixture(w).log1p(), y) + reg.prototypes * model.moved().square().mean()
    return loss if shares is None else loss + reg.weights * divergence(shares, w)


def slide_loss(
    model: CPNN, x: Tensor, mask: Tensor, counts: Tensor, library: Tensor, shares: Tensor | None, reg: Regularisers
) -> Tensor:
    """Negative-binomial likelihood of raw counts (B, G) with mean rho * library (B,), per count and gene."""
    rho, w = model.slide(x, mask)
    mean = rho * library[:, None]
    loss = nb_loss(counts, mean, model.log_theta.exp()) + reg.prototypes * model.moved().square().mean()
    return loss if shares is None else loss + reg.weights * divergence(shares, w)


def nb_loss(counts: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """Minus the log-likelihood of NB(mean, variance = mean + mean^2 / theta), mean over entries."""
    return -nb_log_likelihood(counts, mean.clamp(min=1e-8).log(), theta.clamp(min=1e-3).log()).mean()


def random_profiles(like: Tensor, *, seed: int) -> Tensor:
    """(C, G) of the same level per gene, types at random: what prototypes are worth is seen against them."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    spread = like.clamp(min=FLOOR).log().std(0, keepdim=True)
    return (like.clamp(min=FLOOR).log().mean(0, keepdim=True) + spread * noise).exp()


@torch.no_grad()
def answer(model: CPNN, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spots x (n, d) -> weights (n, C) and expression (n, G), dropout off."""
    model.eval()
    w = model.weights(x)
    return w, model.mixture(w).log1p()
