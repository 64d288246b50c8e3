"""Batch-agnostic gene encoders: a variational autoencoder whose decoder knows the batch and whose encoder does not.

`GeneVAE` follows scVI (Lopez et al. 2018, Nature Methods 15:1053), `GuidedGeneVAE` follows scANVI (Xu et al. 2021,
Molecular Systems Biology 17:e9620), as used for spots by Nishimura et al. (arXiv 2503.07173). Symbols: x counts (B, G),
s batch, y class, z latent, l the library size (observed), rho the decoded profile (rows sum to 1).

The encoder reads x alone. What is common to a batch the decoder can add by itself, so nothing is gained by keeping it
in z; an encoder that saw s could hide the batch instead, and could not be asked about a patient it has never seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpath_core.errors import InputError
from stpath_core.likelihoods import nb_log_likelihood, nb_profile_mean, zinb_log_likelihood, zinb_spot_term


def mlp(n_in: int, n_out: int, *, layers: int, dropout: float) -> nn.Sequential:
    """Linear, LayerNorm, ReLU, dropout; `layers` times.

    LayerNorm, not scVI's BatchNorm: its statistics are those of one spot, so an unseen patient meets the encoder that
    was trained.
    """
    blocks: list[nn.Module] = []
    for i in range(layers):
        blocks += [nn.Linear(n_in if i == 0 else n_out, n_out), nn.LayerNorm(n_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*blocks)


class Gaussian(nn.Module):
    """A diagonal normal whose mean and log variance are read off an input (B, n_in).

    straight : a linear path from input to mean beside the layers. Most of what a spot says is linear in its log
    expression; without that path the layers have to learn it first, and twice as many steps reach less.
    input_dropout : share of the inputs that both paths miss at a step while training, others in each row.
    gene_dropout : the same, but all rows miss the same inputs: the first layer has less to multiply, where the other
        takes a third longer.
    """

    def __init__(
        self, n_in: int, latent: int, *, hidden: int, layers: int, dropout: float, straight: bool = False,
        input_dropout: float = 0.0, gene_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.corrupt = nn.Dropout(input_dropout)
        if not 0 <= gene_dropout < 1:
            message = f"gene_dropout={gene_dropout}; expected a share from 0 to below 1 of the genes that a step misses"
            raise InputError(message)
        self.gene_dropout, self.n_kept = gene_dropout, max(1, n_in - round(gene_dropout * n_in))
        self.body = mlp(n_in, hidden, layers=layers, dropout=dropout)
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.straight = nn.Linear(n_in, latent, bias=False) if straight else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, (first, *rest) = self.corrupt(x), self.body
        weights = [first.weight] if self.straight is None else [first.weight, self.straight.weight]
        if self.training and self.gene_dropout:
            kept = torch.randperm(x.shape[1], device=x.device)[: self.n_kept]
            x = x.index_select(1, kept)  # (B, n_kept)
            weights = [w.index_select(1, kept) * (w.shape[1] / self.n_kept) for w in weights]
        h = F.linear(x, weights[0], first.bias)
        for layer in rest:
            h = layer(h)
        mean = self.mean(h) if self.straight is None else self.mean(h) + F.linear(x, weights[1])
        return mean, self.log_variance(h).clamp(-10, 10)  # (B, L), (B, L)


class NBDecoder(nn.Module):
    """z and batch to a negative binomial over genes: mean l * rho(z, s), one inverse dispersion per gene."""

    def __init__(self, latent: int, n_batches: int, n_genes: int, *, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.body = mlp(latent + n_batches, hidden, layers=layers, dropout=dropout)
        # what a batch does to a gene is mostly a factor of its own, and much of what z says is linear, too: terms that
        # the hidden layer need not spend width on
        self.profile = nn.Linear(hidden + n_batches + latent, n_genes)
        self.log_theta = nn.Parameter(torch.zeros(n_genes))

    def forward(self, z: Tensor, batch: Tensor, library: Tensor) -> tuple[Tensor, ...]:
        """log mean (B, G), and what else the likelihood takes: log theta (G,)."""
        log_rho = self.profile(self.hidden(z, batch)).log_softmax(1)  # (B, G)
        return library.log() + log_rho, self.log_theta

    def hidden(self, z: Tensor, batch: Tensor) -> Tensor:
        given = torch.cat([z, batch], 1)
        return torch.cat([self.body(given), given], 1)  # (B, H + L + S)

    def spot_term(self, counts: Tensor, z: Tensor, batch: Tensor, library: Tensor) -> Tensor:
        """What of log p(x | z, s, l) depends on z, summed over genes, its mean over spots: a scalar. The rest is
        `likelihoods.nb_count_term`."""
        last = self.profile
        return nb_profile_mean(counts, self.hidden(z, batch), last.weight, last.bias, library, self.log_theta)

    def log_likelihood(self, counts: Tensor, z: Tensor, batch: Tensor, library: Tensor) -> Tensor:
        """log p(x | z, s, l), summed over genes: (B,)."""
        return nb_log_likelihood(counts, *self(z, batch, library)).sum(1)


class ZINBDecoder(NBDecoder):
    """The same with an extra chance of a zero per spot and gene: a molecule can be missed altogether."""

    def __init__(self, latent: int, n_batches: int, n_genes: int, *, hidden: int, layers: int, dropout: float) -> None:
        super().__init__(latent, n_batches, n_genes, hidden=hidden, layers=layers, dropout=dropout)
        self.zero = nn.Linear(hidden + n_batches + latent, n_genes)

    def forward(self, z: Tensor, batch: Tensor, library: Tensor) -> tuple[Tensor, ...]:
        """log mean (B, G), log theta (G,), logit of the extra zero (B, G)."""
        h = self.hidden(z, batch)
        return library.log() + self.profile(h).log_softmax(1), self.log_theta, self.zero(h)

    def spot_term(self, counts: Tensor, z: Tensor, batch: Tensor, library: Tensor) -> Tensor:
        return zinb_spot_term(counts, *self(z, batch, library)).sum(1).mean()

    def log_likelihood(self, counts: Tensor, z: Tensor, batch: Tensor, library: Tensor) -> Tensor:
        return zinb_log_likelihood(counts, *self(z, batch, library)).sum(1)


class GeneVAE(nn.Module):
    """scVI-like: q(z | x), p(z) = N(0, 1), p(x | z, s, l).

    n_genes, n_batches : of the training data. n_inputs : what the encoder reads of a spot; None: its log expression,
    n_genes. latent : dimensions of z. hidden, layers : of every MLP. dropout : of all but the decoder's.
    input_dropout : share of the inputs that the encoder misses at a step, while the decoder must explain all counts:
    what it says of a spot may not hang on few genes (a denoising autoencoder, Vincent et al. 2008). gene_dropout : the
    same with one choice of genes for all spots of a step. decoder : NBDecoder or ZINBDecoder.
    """

    def __init__(
        self, n_genes: int, n_batches: int, *, n_inputs: int | None = None, latent: int = 10, hidden: int = 128,
        layers: int = 1, dropout: float = 0.1, input_dropout: float = 0.0, gene_dropout: float = 0.0,
        decoder: type[NBDecoder] = NBDecoder,
    ) -> None:  # fmt: skip
        super().__init__()
        size = {"hidden": hidden, "layers": layers, "dropout": dropout}
        self.n_batches = n_batches
        n_inputs = n_genes if n_inputs is None else n_inputs
        # a gene's mean over the training spots says nothing of a spot, and LayerNorm would see little else beside it
        self.register_buffer("centre", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(n_inputs))
        missed = {"input_dropout": input_dropout, "gene_dropout": gene_dropout}
        self.encoder = Gaussian(n_inputs, latent, **size, **missed, straight=True)
        self.decoder = decoder(latent, n_batches, n_genes, **(size | {"dropout": 0.0}))  # as in scVI

    def standardise(self, x: Tensor) -> GeneVAE:
        """Take mean and SD of each input from the training spots x (n, n_inputs)."""
        self.centre.copy_(x.mean(0))
        self.scale.copy_(x.std(0, correction=0).clamp(min=1e-3))
        return self

    def standardised(self, x: Tensor) -> Tensor:
        """The inputs as the encoder reads them: (B, n_inputs)."""
        return ((x - self.centre) / self.scale).clamp(-10, 10)

    def encode(self, x: Tensor) -> Tensor:
        """The embedding of spots, the mean of q(z | x): (B, L). No batch enters."""
        return self.encoder(self.standardised(x))[0]

    def reconstruction(self, x: Tensor, counts: Tensor, batch: Tensor) -> Tensor:
        """log p(counts | z, s, l) at the mean of q(z | x), per spot: (B,). For held-out spots of known batches."""
        return self.decoder.log_likelihood(counts, self.encode(x), self.one_hot(batch), library(counts))

    def one_hot(self, batch: Tensor) -> Tensor:
        return F.one_hot(batch, self.n_batches).float()  # (B, S)

    def losses(self, x: Tensor, counts: Tensor, batch: Tensor, labels: Tensor, kl_weight: float) -> dict[str, Tensor]:
        """Negative ELBO per spot, the KL term weighed by `kl_weight` (its warm-up). labels are not used.

        x : standardised. Of the likelihood, what depends on z: the rest is added for the whole training set, see
        `likelihoods`.
        """
        del labels
        mean, log_variance = self.encoder(x)
        z = draw(mean, log_variance)
        nll = -self.decoder.spot_term(counts, z, self.one_hot(batch), library(counts))
        kl = kl_to_standard(mean, log_variance).mean()
        return {"loss": nll + kl_weight * kl, "nll": nll, "kl": kl}


class GuidedGeneVAE(GeneVAE):
    """scANVI-like: a classifier q(y | z) and a class-conditional prior p(z | u, y), u ~ N(0, 1).

    n_classes : of the labels; spots of unknown class (-1) count each class by q(y | z). Latent, hidden, ... as GeneVAE.
    classifier_weight : of the cross-entropy on labelled spots beside the ELBO, 50 in scANVI.
    """

    def __init__(
        self, n_genes: int, n_batches: int, n_classes: int, *, n_inputs: int | None = None, latent: int = 10,
        hidden: int = 128, layers: int = 1, dropout: float = 0.1, input_dropout: float = 0.0,
        gene_dropout: float = 0.0, decoder: type[NBDecoder] = NBDecoder, classifier_weight: float = 50.0,
    ) -> None:  # fmt: skip
        size = {"hidden": hidden, "layers": layers, "dropout": dropout}
        reads = {"n_inputs": n_inputs, "input_dropout": input_dropout, "gene_dropout": gene_dropout}
        super().__init__(n_genes, n_batches, latent=latent, decoder=decoder, **reads, **size)
        self.n_classes, self.classifier_weight = n_classes, classifier_weight
        self.classifier = nn.Sequential(
            mlp(latent, hidden, layers=layers, dropout=dropout), nn.Linear(hidden, n_classes)
        )
        self.inner = Gaussian(latent + n_classes, latent, **size)  # q(u | z, y)
        self.prior = Gaussian(latent + n_classes, latent, **size)  # p(z | u, y)

    def losses(self, x: Tensor, counts: Tensor, batch: Tensor, labels: Tensor, kl_weight: float) -> dict[str, Tensor]:
        """Negative ELBO of labelled and unlabelled spots together, plus the classifier's cross-entropy.

        x : standardised. labels : (B,) class index, -1 unknown. The ELBO of an unlabelled spot is its mean over
        classes under q(y | z), plus KL(q(y | z) || uniform) (Kingma et al. 2014, equation 7).
        """
        mean, log_variance = self.encoder(x)
        z = draw(mean, log_variance)
        nll = -self.decoder.spot_term(counts, z, self.one_hot(batch), library(counts))
        logits = self.classifier(z)  # (B, C)
        known = labels >= 0
        guess = logits.softmax(1)
        belief = torch.where(known[:, None], F.one_hot(labels.clamp(min=0), self.n_classes).float(), guess)  # (B, C)
        log_q = -0.5 * (log_variance + (z - mean).square() / log_variance.exp()).sum(1)  # (B,), up to a constant
        divergence = self._divergence(z, log_q)  # (B, C)
        kl = (belief * divergence).sum(1)
        unsure = (guess * (guess.clamp(min=1e-8).log() + math.log(self.n_classes))).sum(1)
        kl = (kl + torch.where(known, 0.0, unsure)).mean()
        wrong = F.cross_entropy(logits[known], labels[known]) if known.any() else logits.sum() * 0
        loss = nll + kl_weight * kl + self.classifier_weight * wrong
        return {"loss": loss, "nll": nll, "kl": kl, "cross_entropy": wrong}

    def _divergence(self, z: Tensor, log_q: Tensor) -> Tensor:
        """log q(z | x) - log p(z | u, y = c) + KL(q(u | z, y = c) || N(0, 1)) for each class c: (B, C)."""
        n, c = len(z), self.n_classes
        y = torch.eye(c, device=z.device).repeat(n, 1)  # (B C, C): all classes of one spot, then of the next
        z = z.repeat_interleave(c, 0)  # (B C, L)
        mean_u, log_variance_u = self.inner(torch.cat([z, y], 1))
        mean, log_variance = self.prior(torch.cat([draw(mean_u, log_variance_u), y], 1))
        log_p = -0.5 * (log_variance + (z - mean).square() / log_variance.exp()).sum(1)  # (B C,)
        return log_q[:, None] - (log_p - kl_to_standard(mean_u, log_variance_u)).view(n, c)


def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sample of N(mean, variance), differentiable in both (the reparametrisation)."""
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def kl_to_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed over dimensions: (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def library(counts: Tensor) -> Tensor:
    """Total counts of each spot: (B, 1)."""
    return counts.sum(1, keepdim=True)
