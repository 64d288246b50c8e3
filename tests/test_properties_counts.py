"""Likelihoods of counts over the whole range that data and training reach: oracles of scipy, identities, gradients."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from stpath_core import likelihoods as lk

SOME = settings(max_examples=60)
EPS = np.finfo(np.float32).eps
COUNTS = st.one_of(st.integers(0, 60), st.integers(0, 100_000))
LOG_MEAN, LOG_THETA = st.floats(-18, 9), st.floats(-6.9, 18)  # theta from 0.001 to 6e7
ROWS = st.lists(st.tuples(COUNTS, LOG_MEAN, LOG_THETA, st.floats(-50, 50)), min_size=1, max_size=12)


def columns(rows, dtype=torch.float32):
    """counts, log mean (1, G), log theta (G,), logit of zero (1, G)."""
    counts, log_mean, log_theta, logit = (torch.tensor(column, dtype=dtype) for column in zip(*rows, strict=True))
    return counts[None], log_mean[None], log_theta, logit[None]


@SOME
@given(st.lists(st.tuples(COUNTS, st.floats(-7, 9), st.floats(-6.9, 16), st.just(0.0)), min_size=1, max_size=12))
def test_negative_binomial_is_scipys_wherever_float32_can_tell(rows):
    counts, log_mean, log_theta, _ = columns(rows)
    x, mean, theta = (v.double().numpy() for v in (counts, log_mean.double().exp(), log_theta.double().exp()))
    terms = special.gammaln(x + np.minimum(theta, lk.LARGE_THETA)) + special.gammaln(x + 1) + 20 * x + mean + 20
    found = lk.nb_log_likelihood(counts, log_mean, log_theta).numpy()
    expected = stats.nbinom.logpmf(
        x, theta, theta / (theta + mean)
    )  # beyond these ranges it is scipy that loses digits
    assert (np.abs(found - expected) <= 4 * EPS * terms).all()


@SOME
@given(st.floats(-6, 3.4), st.floats(-3, 14), st.floats(-30, 30))
def test_the_probabilities_of_all_counts_sum_to_one(log_mean, log_theta, logit):
    theta, mean = np.exp([log_theta, log_mean])
    last = int(stats.nbinom.isf(1e-12, theta, theta / (theta + mean))) + 2
    counts = torch.arange(last, dtype=torch.float64)[:, None]
    log_mean, theta, logit = (torch.full((n, 1), v, dtype=torch.float64) for n, v in
                              ((last, log_mean), (1, log_theta), (last, logit)))  # fmt: skip
    for found in (lk.nb_log_likelihood(counts, log_mean, theta[0]),
                  lk.zinb_log_likelihood(counts, log_mean, theta[0], logit)):  # fmt: skip
        np.testing.assert_allclose(found.exp().sum().item(), 1, rtol=1e-8)


@SOME
@given(st.integers(0, 300), st.floats(-6, 6), st.floats(0, 16))
def test_the_poisson_is_approached_at_the_rate_that_theory_says(count, log_mean, above):
    """log NB - log Poisson = ((x - mean)^2 - x) / 2 theta + O(1 / theta^2)."""
    mean = np.exp(log_mean)
    log_theta = np.log(10 * (count + mean + 1)) + above
    one = columns([(count, log_mean, log_theta, 0.0)], torch.float64)[:3]
    difference = lk.nb_log_likelihood(*one).item() - stats.poisson.logpmf(count, mean)
    expected = ((count - mean) ** 2 - count) / 2 / np.exp(log_theta)
    assert abs(difference - expected) <= (count + mean + 1) ** 3 / np.exp(2 * log_theta) + 1e-8


@SOME
@given(ROWS)
def test_zero_inflation_of_nothing_is_the_negative_binomial_and_of_everything_a_zero(rows):
    counts, log_mean, log_theta, _ = columns(rows, torch.float64)
    never, always = (torch.full_like(counts, logit) for logit in (-1e5, 1e5))
    plain = lk.nb_log_likelihood(counts, log_mean, log_theta)
    torch.testing.assert_close(lk.zinb_log_likelihood(counts, log_mean, log_theta, never), plain)
    certain = lk.zinb_log_likelihood(counts, log_mean, log_theta, always)
    torch.testing.assert_close(certain, torch.where(counts > 0, plain - 1e5, 0.0))


@SOME
@given(ROWS)
def test_likelihoods_and_their_gradients_are_finite_in_float32(rows):
    counts, *inputs = columns(rows)
    for value in inputs:
        value.requires_grad_()
    log_mean, log_theta, _ = inputs
    found = lk.nb_log_likelihood(counts, log_mean, log_theta), lk.zinb_log_likelihood(counts, *inputs)
    table = lk.nb_count_term(lk.count_table(counts), log_theta.exp())
    for value, of in ((found[0], inputs[:2]), (found[1], inputs), (table, [log_theta])):
        assert torch.isfinite(value).all()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value.sum(), of))
    assert (found[0] <= 1e-2 + 1e-5 * counts).all()  # of a probability: never above 0, rounding aside
    slope = torch.autograd.grad(lk.nb_log_likelihood(counts, log_mean, log_theta).sum(), log_mean)[0]
    theta, mean = log_theta.double().exp(), log_mean.double().exp()
    expected = (counts.double() - mean) * theta / (theta + mean)  # d log NB / d log mean
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=1e-4 + 4 * EPS * counts.max().item())


@SOME
@given(st.lists(st.lists(COUNTS, min_size=3, max_size=3), min_size=1, max_size=6),
       st.lists(LOG_THETA, min_size=3, max_size=3))  # fmt: skip
def test_a_table_of_counts_stands_for_the_data(counts, log_theta):
    counts, theta = torch.tensor(counts, dtype=torch.float32), torch.tensor(log_theta, dtype=torch.float64).exp()
    x = counts.double().numpy()
    far = np.minimum(theta.numpy(), 1e12)
    wanted = (stats.nbinom.logpmf(x, far, 0.5) + (x + far) * np.log(2)).sum(1).mean()  # the second bracket
    scale = (special.gammaln(x + 1) + x * 20).sum(1).mean()
    assert abs(lk.nb_count_term(lk.count_table(counts), theta).item() - wanted) <= 1e-5 * scale + 1e-3


@SOME
@given(st.lists(st.lists(st.tuples(COUNTS, st.floats(-30, 30)), min_size=3, max_size=3), min_size=1, max_size=4),
       st.lists(st.floats(-5, 9), min_size=3, max_size=3))  # fmt: skip
def test_the_profile_likelihood_is_its_slow_form_for_any_logits(rows, log_theta):
    counts, logits = (torch.tensor(np.array(rows)[..., k], dtype=torch.float64) for k in (0, 1))
    library = counts.sum(1, keepdim=True) + 1
    values = []
    for dtype, slow in ((torch.float64, True), (torch.float32, False)):
        x, a, n = (v.to(dtype) for v in (counts, logits, library))
        a, t = a.clone().requires_grad_(), torch.tensor(log_theta, dtype=dtype).requires_grad_()
        same, none = torch.eye(3, dtype=dtype), torch.zeros(3, dtype=dtype)  # of a layer that changes nothing
        value = (lk.nb_spot_term(x, n.log() + a.log_softmax(1), t).sum(1).mean() if slow
                 else lk.nb_profile_mean(x, a, same, none, n, t)) * len(x)  # fmt: skip
        values.append([v.detach().double() for v in (value, *torch.autograd.grad(value, (a, t)))])
    scale = (60 * counts.sum() + np.exp(log_theta).sum() * 12 * len(counts)).item()
    for slow, fast in zip(*values, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-5 * scale + 1e-4)
