"""Bulk of people whose genes differ in level: shares are found all the same, by what the training samples tell."""

from __future__ import annotations

import numpy as np
import pytest

from stpath_core.bulk_deconvolution import deconvolve_bulk
from stpath_core.deconvolution import deconvolve, type_correlations
from stpath_core.errors import InputError


@pytest.fixture(scope="module")
def people():
    """60 samples of five types and 400 genes; every gene of every person is off by a factor of e^(0.5 z)."""
    rng = np.random.default_rng(0)
    profiles = np.exp(1.5 * rng.normal(size=(5, 400)))
    profiles /= profiles.sum(1, keepdims=True)
    shares = rng.dirichlet([8, 5, 3, 2, 1], 60)
    caught = np.exp(0.4 * rng.normal(size=400))
    level = shares @ (profiles * caught) * np.exp(0.5 * rng.normal(size=(60, 400)))
    counts = rng.poisson(1e6 * level / level.sum(1, keepdims=True))
    return counts, profiles, shares, caught


def test_shares_of_people_are_found_where_a_poisson_likelihood_is_misled(people):
    counts, profiles, shares, _ = people
    ours = type_correlations(shares, deconvolve_bulk(counts, profiles).shares)
    theirs = type_correlations(shares, deconvolve(counts, profiles).shares)
    assert np.median(ours) > 0.95
    assert 1 - np.median(ours) < 0.6 * (1 - np.median(theirs))


def test_other_people_are_told_by_the_genes_of_the_training_samples(people):
    counts, profiles, shares, caught = people
    found = deconvolve_bulk(counts[:40], profiles)
    of_others = found.of(counts[40:], profiles)
    assert np.median(type_correlations(shares[40:], of_others)) > 0.9
    np.testing.assert_allclose(of_others.sum(1), 1, rtol=1e-5)
    assert np.corrcoef(np.log(found.sensitivity), np.log(caught))[0, 1] > 0.9
    assert 0.4 < np.median(found.spread) < 0.6  # 0.5 was planted


def test_a_sample_is_told_the_same_alone_and_in_company(people):
    counts, profiles, *_ = people
    found = deconvolve_bulk(counts[:40], profiles)
    np.testing.assert_allclose(found.of(counts[40:41], profiles)[0], found.of(counts[40:], profiles)[0], atol=0.02)


def test_a_gene_nobody_shows_changes_nothing(people):
    counts, profiles, *_ = people
    wider = np.hstack([counts, np.zeros((len(counts), 5), int)])
    with_silent = np.hstack([profiles, np.full((5, 5), profiles.mean())])
    ours, theirs = (deconvolve_bulk(c, p).shares for c, p in ((counts, profiles), (wider, with_silent)))
    np.testing.assert_allclose(theirs, ours, atol=0.02)


def test_one_sample_cannot_tell_how_people_differ(people):
    counts, profiles, *_ = people
    with pytest.raises(InputError, match="at least 2"):
        deconvolve_bulk(counts[:1], profiles)
