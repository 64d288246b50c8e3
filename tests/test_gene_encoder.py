"""Gene encoders: exact likelihoods, an encoder that never sees the batch, and a planted batch that is taken out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse, special, stats
from torch.nn import functional as F

from stpath_core.errors import InputError
from stpath_core.gene_encoding import dense_blocks, encode, fit_gene_encoder, highly_variable
from stpath_core.likelihoods import (
    ROWS,
    count_table,
    nb_count_term,
    nb_log_likelihood,
    nb_profile_mean,
    nb_spot_term,
    zinb_log_likelihood,
    zinb_spot_term,
)
from stpath_core.models.gene_encoder import GeneVAE, GuidedGeneVAE, NBDecoder, ZINBDecoder, kl_to_standard


def planted(n=120, n_genes=60, *, batches=3, batch=1.0, seed=0):
    """Counts of two classes in several batches, a factor per gene and batch: counts, batch names, class (0, 1)."""
    rng = np.random.default_rng(seed)
    label, who = rng.integers(0, 2, n), rng.integers(0, batches, n)
    profile = rng.normal(0, 1, (2, n_genes))
    factor = batch * rng.normal(0, 1, (batches, n_genes))
    rate = np.exp(profile[label] + factor[who])
    return rng.poisson(400 * rate / rate.sum(1, keepdims=True)), np.array([f"p{w}" for w in who]), label


def draws(seed=0):
    rng = np.random.default_rng(seed)
    counts, mean, theta = rng.integers(0, 9, (40, 7)), np.exp(rng.normal(0, 1, (40, 7))), np.exp(rng.normal(0, 1, 7))
    return counts, mean, theta


def tensors(*arrays):
    return [torch.tensor(np.asarray(a), dtype=torch.float32) for a in arrays]


def test_negative_binomial_is_scipys():
    counts, mean, theta = draws()
    ours = nb_log_likelihood(*tensors(counts, np.log(mean), np.log(theta)))
    np.testing.assert_allclose(ours, stats.nbinom.logpmf(counts, theta, theta / (theta + mean)), atol=2e-5)


def test_negative_binomial_tends_to_the_poisson():
    counts, mean, _ = draws()
    ours = nb_log_likelihood(*tensors(counts, np.log(mean), np.full(7, np.log(1e7))))
    np.testing.assert_allclose(ours, stats.poisson.logpmf(counts, mean), atol=1e-4)


def test_zero_inflation_is_the_mixture():
    counts, mean, theta = draws()
    share = 1 / (1 + np.exp(-0.4))
    nb = stats.nbinom.pmf(counts, theta, theta / (theta + mean))
    wanted = np.log(share * (counts == 0) + (1 - share) * nb)
    logit = np.full(counts.shape, 0.4)
    ours = zinb_log_likelihood(*tensors(counts, np.log(mean), np.log(theta), logit))
    np.testing.assert_allclose(ours, wanted, atol=2e-5)


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_the_two_terms_of_a_data_set_are_its_likelihood(zero_inflated):
    """What training pays for, plus one evaluation per distinct count, is the whole; so is its gradient in theta."""
    counts, log_mean, log_theta = tensors(draws()[0], np.log(draws()[1]), np.log(draws()[2]))
    logit = (torch.full_like(counts, 0.4),) if zero_inflated else ()
    whole, part = (zinb_log_likelihood, zinb_spot_term) if zero_inflated else (nb_log_likelihood, nb_spot_term)
    gradients = []
    for split in (False, True):
        t = log_theta.clone().requires_grad_()
        if split:
            value = part(counts, log_mean, t, *logit).sum(1).mean() + nb_count_term(count_table(counts), t.exp())
        else:
            value = whole(counts, log_mean, t, *logit).sum(1).mean()
        gradients.append((value.item(), torch.autograd.grad(value, t)[0]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-3)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 5, ROWS, 2 * ROWS + 7])
def test_the_gradient_that_is_written_out_is_autograds(n):
    """Of a part of the rows, of all, and of several parts, the last one short."""
    rng = np.random.default_rng(n)
    counts = torch.from_numpy(rng.poisson(rng.gamma(0.7, 3, 6), (n, 6)).astype(float)) + torch.eye(6)[np.arange(n) % 6]
    library, found = 1.3 * counts.sum(1, keepdim=True), []  # whatever it is of the counts
    given = [torch.from_numpy(rng.normal(size=size)) for size in ((n, 4), (6, 4), 6, 6)]  # h, weight, bias, log theta

    def by_steps(h, weight, bias, t):
        return nb_spot_term(counts, library.log() + F.linear(h, weight, bias).log_softmax(1), t).sum(1).mean()

    def ours(h, weight, bias, t):
        return nb_profile_mean(counts, h, weight, bias, library, t)

    for term in (by_steps, ours):
        of = [v.clone().requires_grad_() for v in given]
        value = -2.5 * term(*of)
        found.append((value.detach(), *torch.autograd.grad(value, of)))
    for autograd, written in zip(*found, strict=True):
        torch.testing.assert_close(written, autograd)


def test_the_likelihood_in_one_go_is_not_taken_in_eight_bits():
    """Under autocast, and of what a layer under autocast gives: the same as without, but for the rounding of h."""
    rng = np.random.default_rng(0)
    counts, h = torch.from_numpy(rng.poisson(3.0, (20, 6)).astype(np.float32)), torch.randn(20, 4).bfloat16()
    rest = torch.randn(6, 4), torch.randn(6), counts.sum(1, keepdim=True), torch.randn(6)
    plain = nb_profile_mean(counts, h.float(), *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nb_profile_mean(counts, h, *rest)
    assert found.dtype == torch.float32
    assert found.item() == plain.item()


@pytest.mark.parametrize("theta", [1e-3, 0.7, 30.0, 1e6])
def test_counts_beyond_the_steps_are_counted_too(theta):
    counts = torch.tensor([[0.0, 3], [49, 48], [1300, 47], [60, 1]])
    ours = nb_count_term(count_table(counts), torch.tensor([theta, theta], dtype=torch.float64))
    x = counts.numpy().astype(float)
    wanted = special.gammaln(x + theta) - special.gammaln(theta) - special.gammaln(x + 1)
    np.testing.assert_allclose(ours, wanted.sum(1).mean(), rtol=1e-4)


def test_kl_is_torchs():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard(mean, log_variance), wanted)


def test_the_batch_reaches_the_decoder_and_not_the_encoder():
    model = GeneVAE(20, 3).eval()
    counts = torch.poisson(torch.full((6, 20), 3.0))
    here, there = (model.reconstruction(counts, counts, torch.full((6,), b)) for b in (0, 1))
    assert not torch.allclose(here, there)
    assert "batch" not in model.encode.__annotations__
    assert model.encoder.body[0].in_features == 20  # genes, nothing beside them


def test_the_guided_divergence_of_a_known_class_counts_that_class_alone():
    torch.manual_seed(0)
    model = GuidedGeneVAE(20, 2, 3, dropout=0.0).eval()
    z, log_q = torch.randn(4, 10), torch.randn(4)
    torch.manual_seed(1)
    together = model._divergence(z, log_q)
    assert together.shape == (4, 3)
    with torch.no_grad():  # a prior that ignores its input: the difference between classes must vanish
        for net in (model.prior, model.inner):
            net.mean.weight.zero_()
            net.log_variance.weight.zero_()
    flat = model._divergence(z, log_q)
    torch.testing.assert_close(flat[:, 0], flat[:, 2])


@pytest.mark.parametrize("decoder", [NBDecoder, ZINBDecoder])
def test_a_planted_batch_is_taken_out_and_the_class_stays(decoder):
    counts, who, label = planted(240)
    model, history = fit_gene_encoder(counts, who, steps=150, batch_size=120, hidden=32, latent=4, decoder=decoder)
    z = encode(model, counts)
    assert history[-1]["kl"] > 0.5  # not collapsed
    assert history[-1]["nll"] < history[0]["nll"]
    logged = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))

    def separation(x, group):  # how many pooled SD the group means lie apart along their difference
        means = [x[group == g].mean(0) for g in np.unique(group)]
        inside = np.concatenate([x[group == g] - m for g, m in zip(np.unique(group), means, strict=True)])
        return np.linalg.norm(means[0] - means[1]) / inside.std()

    assert separation(z, who) < 0.5 * separation(logged, who)
    assert separation(z, label) > 2 * separation(z, who)


def test_labels_pull_the_classes_apart():
    counts, who, label = planted(240, batch=0.3)
    weak = label.copy()
    weak[::2] = -1  # half are unknown
    model, history = fit_gene_encoder(counts, who, weak, steps=100, batch_size=120, hidden=32, latent=4)
    with torch.no_grad():
        said = model.classifier(torch.from_numpy(encode(model, counts))).argmax(1).numpy()
    assert (said[::2] == label[::2]).mean() > 0.9  # of those it was not told
    assert history[-1]["cross_entropy"] < 0.3


def test_dropped_inputs_are_missed_while_training_alone_and_by_both_paths():
    torch.manual_seed(0)
    model = GeneVAE(50, 2, latent=3, hidden=8, dropout=0.0, input_dropout=0.5)
    x = torch.ones(4000, 50)
    with torch.no_grad():
        taught, asked = model.train().encoder(x)[0], model.eval().encoder(x)[0]
        model.encoder.mean.weight.zero_()  # the straight path alone
        straight = model.train().encoder(x)[0] - model.encoder.mean.bias
    weight = model.encoder.straight.weight
    torch.testing.assert_close(asked, asked[:1].expand_as(asked))  # nothing is left to chance once it is trained
    by_chance = weight.square().sum(1).sqrt()  # SD of a sum of terms that are 0 or twice themselves, by half
    torch.testing.assert_close(straight.std(0), by_chance, rtol=0.1, atol=0)
    torch.testing.assert_close(straight.mean(0), weight.sum(1), rtol=0, atol=0.1)
    assert ((taught - straight).std(0) > 0.01).all()  # the layers miss them, too


def test_genes_dropped_are_missed_by_all_spots_of_a_step_while_training_alone():
    torch.manual_seed(0)
    model = GeneVAE(50, 2, latent=3, hidden=8, dropout=0.0, gene_dropout=0.4)
    x = torch.randn(1, 50).expand(6, 50)
    with torch.no_grad():
        taught = [model.train().encoder(x)[0] for _ in range(400)]
        asked = model.eval().encoder(x)[0]
        straight = model.encoder.straight.weight * x[0] / 0.6  # (L, G) what each gene adds where it is not missed
    for said in taught:
        torch.testing.assert_close(said, said[:1].expand_as(said))  # no spot sees what another misses
    steps = torch.stack(taught)[:, 0]
    assert (steps.std(0) > 0.5 * (0.24 * straight.square().sum(1)).sqrt()).all()  # each step misses others
    assert torch.equal(asked, model.encoder(x)[0])
    model.encoder.mean.weight.data.zero_()  # the straight path alone: 30 of 50 terms, each larger by 50 / 30
    with torch.no_grad():
        steps = torch.stack([model.train().encoder(x)[0][0] for _ in range(2000)])
    torch.testing.assert_close(steps.mean(0) - model.encoder.mean.bias, 0.6 * straight.sum(1), rtol=0, atol=0.1)


def test_training_repeats_bit_for_bit_and_depends_on_the_seed():
    counts, who, _ = planted()
    a, b, c = (encode(fit_gene_encoder(counts, who, steps=5, hidden=16, seed=s)[0], counts) for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.allclose(a, c)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, np.asarray])
def test_blocks_of_a_table_are_its_rows(kind):
    table = np.random.default_rng(0).poisson(0.3, (31, 9))
    blocks = [block.copy() for block in dense_blocks(kind(table), rows=8)]  # one space, written again and again
    assert [len(block) for block in blocks] == [8, 8, 8, 7]
    assert all(block.dtype == np.float32 for block in blocks)
    assert np.array_equal(np.concatenate(blocks), table)


def test_variable_genes_are_those_that_vary_within_batches():
    rng = np.random.default_rng(0)
    who = np.repeat(["a", "b"], 60)
    counts = rng.poisson(5.0, (120, 30))
    counts[:, 3] *= np.where(who == "a", 1, 6)  # a batch effect
    counts[::2, 7] *= 5  # varies within both
    assert 7 in highly_variable(counts, who, n=3)
    assert np.array_equal(highly_variable(counts, who, n=30), np.arange(30))


def test_bad_counts_batches_and_labels_are_told():
    counts, who, _ = planted(40)
    with pytest.raises(InputError, match="not values that were normalised or logged"):
        fit_gene_encoder(np.log1p(counts), who)
    with pytest.raises(InputError, match="fewer than 2: add patients"):
        fit_gene_encoder(counts, np.full(40, "a"))
    empty = counts.copy()
    empty[4] = 0
    with pytest.raises(InputError, match=r"1 of 40 spots have no count at all \(row 4 first\)"):
        fit_gene_encoder(empty, who)
    with pytest.raises(InputError, match="at least 2 classes"):
        fit_gene_encoder(counts, who, np.zeros(40, int))
