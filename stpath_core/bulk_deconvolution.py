"""Shares of cell types in bulk samples of different people, whose genes differ in level whatever their cells are.

A Poisson likelihood takes a gene that one person simply expresses twice as much for a change of the mixture, and the
highest genes shout loudest. Here the level of gene g in person i is log-normal around the mixture,

    log(counts_ig / total_i) = log(w_i . (s_g P_g)) + b_i + e_ig,    e_ig ~ N(0, spread_g^2 + 1 / counts_ig),

with a sensitivity s_g and a spread per gene that the training samples tell, so that thousands of genes vote on equal
terms; and the mixtures of people are normal around their mean, on the log scale (empirical Bayes): what the training
samples say of how types vary together steadies the rare ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stpath_core.deconvolution import CAUGHT, Shares, deconvolve
from stpath_core.errors import InputError

FLOOR = 0.5  # counts added: a gene that was not seen has a logarithm, and next to no weight
LEAST = 0.01  # of the mean mixture, so that a type that was found nowhere can come back
LOG_SENSITIVITY = 1.0  # SD of the prior, natural log
LOG_SPREAD = (-0.6, 0.5)  # mean and SD of the prior of log(spread): about 0.55 between people
SHRUNK = 0.1  # of the covariance of mixtures, towards a sphere
ROUNDS = 100


@dataclass(frozen=True)
class BulkShares(Shares):
    """spread (G,): SD (natural log) of a gene's level between people. middle (C,): log of the mean shares; covariance
    (C, C) of log shares around it."""

    spread: np.ndarray
    middle: np.ndarray
    covariance: np.ndarray

    def of(self, counts: np.ndarray, profiles: np.ndarray) -> np.ndarray:
        """Shares (m, C) of other people's samples (m, G), by what the training samples told of genes and mixtures."""
        level = torch.as_tensor(np.log(self.sensitivity)), torch.as_tensor(np.log(self.spread))
        precision = np.linalg.inv(self.covariance)
        return _maximise(counts, profiles, self.middle, precision, level)[0].softmax(1).numpy()


def deconvolve_bulk(counts: np.ndarray, profiles: np.ndarray) -> BulkShares:
    """Shares of each profile in each sample: counts (n, G) raw, one row per person; profiles (C, G) positive.

    The mean mixture is that of `deconvolve`; this model says how each person differs from it. Raises InputError as
    `deconvolve` does, and for fewer than two samples, which cannot tell how people differ.
    """
    if len(counts) < 2:
        message = f"{len(counts)} bulk sample; how a gene differs between people takes at least 2: use deconvolve(...)"
        raise InputError(message)
    middle = np.log(np.maximum(deconvolve(counts, profiles).shares.mean(0), LEAST)).astype(np.float32)
    first, level = _maximise(counts, profiles, middle, np.eye(len(profiles)), None)
    apart = (first - first.mean(1, keepdim=True) - torch.as_tensor(middle - middle.mean())).numpy()
    covariance = apart.T @ apart / len(apart)
    round_ = np.eye(len(covariance)) * max(covariance.trace() / len(covariance), 1e-4)
    covariance = (1 - SHRUNK) * covariance + SHRUNK * round_
    logits, _ = _maximise(counts, profiles, middle, np.linalg.inv(covariance), level)
    sensitivity = np.clip(level[0].exp().numpy(), *CAUGHT)
    return BulkShares(logits.softmax(1).numpy(), sensitivity, level[1].exp().numpy(), middle, covariance)


def _maximise(
    counts: np.ndarray, profiles: np.ndarray, middle: np.ndarray, precision: np.ndarray,
    level: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
    """Log shares (n, C), up to a constant per row, of highest posterior; each gene's log sensitivity and log spread.

    level : those of the genes where they are known. Where they are not, people's mixtures lie around `middle` on
    average, because a gene's sensitivity could else take the place of a type's mean share.
    """
    x, p, m, precision = (torch.as_tensor(np.asarray(v, np.float32)) for v in (counts, profiles, middle, precision))
    x = x + FLOOR
    y, counted = (x / x.sum(1, keepdim=True)).log(), 1 / x
    apart = torch.zeros(len(x), len(p), requires_grad=True)
    depth = torch.zeros(len(x), 1, requires_grad=True)
    free = [apart, depth]
    if level is None:
        caught = torch.zeros(x.shape[1], requires_grad=True)
        spread = torch.full((x.shape[1],), LOG_SPREAD[0], requires_grad=True)
        free += [caught, spread]
    else:
        caught, spread = level
    optimiser = torch.optim.LBFGS(free, max_iter=ROUNDS, line_search_fn="strong_wolfe", tolerance_change=1e-6)

    def centred() -> Tensor:
        return apart - apart.mean(0) if level is None else apart

    def cost() -> Tensor:
        optimiser.zero_grad()
        e = centred()
        left = y - ((m + e).softmax(1) @ (p * caught.exp())).log() - depth
        variance = (2 * spread).exp() + counted
        value = (left.square() / variance + variance.log()).sum() + ((e @ precision) * e).sum()
        if level is None:
            value = value + (caught / LOG_SENSITIVITY).square().sum() + apart.mean(0).square().sum()
            value = value + ((spread - LOG_SPREAD[0]) / LOG_SPREAD[1]).square().sum()
        (value / 2).backward()
        return value / 2

    optimiser.step(cost)
    return (m + centred()).detach(), (caught.detach(), spread.detach())
