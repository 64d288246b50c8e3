"""Genes: correlations per gene, the NB likelihood, batches of sparse counts, mixing. Run by `make bench`."""

from __future__ import annotations

import numpy as np
import torch
from beside import close, race, sizes, write
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr, spearmanr

from stpath_core import correlation, likelihoods, mixing
from stpath_core.gene_encoding import dense_blocks


def pair(n: int, genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Measured log1p counts, mostly ties, and predictions that follow them, (n, genes) float32 each."""
    rng = np.random.default_rng(0)
    true = np.log1p(rng.poisson(0.3 + rng.gamma(0.7, 2, genes), (n, genes))).astype(np.float32)
    return true, (true + rng.normal(0, 1, true.shape)).astype(np.float32)


def correlations(n: int, genes: int) -> list[dict]:
    """Pearson and Spearman of each gene, two measures raced apart."""
    true, pred = pair(n, genes)
    x, y = torch.from_numpy(true), torch.from_numpy(pred)

    def torchmetrics_pearson() -> np.ndarray:
        from torchmetrics import PearsonCorrCoef

        return PearsonCorrCoef(num_outputs=genes)(y, x).numpy()

    def torchmetrics_spearman() -> np.ndarray:
        from torchmetrics import SpearmanCorrCoef

        return SpearmanCorrCoef(num_outputs=genes)(y, x).numpy()

    size = f"{n:,} spots x {genes:,} genes"
    peers = {
        "torchmetrics": torchmetrics_pearson,
        "scipy, gene by gene": lambda: np.array([pearsonr(true[:, g], pred[:, g])[0] for g in range(genes)]),
    }
    equal = dict.fromkeys(peers, close(2e-4, "coefficients"))
    peers["both matrices read once, no peer"] = lambda: np.vdot(true, pred)
    equal["both matrices read once, no peer"] = lambda *_: "not a peer: less than this no correlation takes"
    rows = race(
        "Pearson per gene", size, lambda: correlation.pearson(true, pred), peers, equal=equal,
        goal={"torchmetrics": 50.0},
    )  # fmt: skip
    peers = {
        "torchmetrics": torchmetrics_spearman,
        "scipy, gene by gene": lambda: np.array([spearmanr(true[:, g], pred[:, g])[0] for g in range(genes)]),
    }
    return rows + race(
        "Spearman per gene", size, lambda: correlation.spearman(true, pred), peers,
        equal=dict.fromkeys(peers, close(2e-4, "coefficients")), goal={"scipy, gene by gene": 1.8},
    )  # fmt: skip


def likelihood(n: int, genes: int, *, width: int = 146) -> list[dict]:
    """NB of a batch from what the decoder's last layer reads, and all gradients. The count term is of the whole data
    set, once a step, as in training; one gene in twenty has counts by the hundred."""
    rng = np.random.default_rng(1)
    rate = rng.gamma(0.7, 2, genes) * np.where(np.arange(genes) % 20, 1, 100)
    counts = torch.from_numpy(rng.poisson(rate, (n, genes)).astype(np.float32))
    given = [rng.normal(0, 1, (n, width)), rng.normal(0, width**-0.5, (genes, width)), rng.normal(0, 1, genes)]
    given = [torch.from_numpy(v.astype(np.float32)) for v in (*given, rng.normal(1, 1, genes))]
    library = counts.sum(1, keepdim=True).clamp(min=1)
    table = likelihoods.count_table(counts)

    def graded(of) -> list[np.ndarray]:
        asked = [v.clone().requires_grad_() for v in given]  # h, weight, bias, log theta
        value = of(*asked)
        value.backward()
        return [value.detach().numpy(), *(v.grad.numpy() for v in asked)]

    def ours() -> list[np.ndarray]:
        def of(h, weight, bias, t):
            of_spots = likelihoods.nb_profile_mean(counts, h, weight, bias, library, t)
            return of_spots + likelihoods.nb_count_term(table, t.exp())

        return graded(of)

    def scvi() -> list[np.ndarray]:
        from scvi.distributions import NegativeBinomial

        def of(h, weight, bias, t):
            mean = library * torch.nn.functional.linear(h, weight, bias).softmax(1)
            return NegativeBinomial(mu=mean, theta=t.exp()).log_prob(counts).sum(1).mean()

        return graded(of)

    def of_torch() -> list[np.ndarray]:
        from torch.distributions import NegativeBinomial

        def of(h, weight, bias, t):
            logits = library.log() + torch.nn.functional.linear(h, weight, bias).log_softmax(1) - t
            return NegativeBinomial(t.exp(), logits=logits, validate_args=False).log_prob(counts).sum(1).mean()

        return graded(of)

    def agree(a: list[np.ndarray], b: list[np.ndarray]) -> str:
        apart = max(np.abs(x - y).max() / np.abs(x).max() for x, y in zip(a, b, strict=True))
        assert apart < 1e-3, apart
        return f"likelihood and each gradient within {apart:.0e} of its largest value"

    peers = {"scvi-tools NegativeBinomial": scvi, "torch.distributions": of_torch}
    subject, size = "last layer, NB likelihood, gradient", f"{n:,} x {genes:,}"
    return race(subject, size, ours, peers, equal=dict.fromkeys(peers, agree))


def batches(n: int, genes: int, *, share: float = 0.1) -> list[dict]:
    """An epoch of sparse counts as dense float32 batches: blocks as `encode` takes them, rows in order."""
    rng = np.random.default_rng(2)
    rows, cols = rng.integers(n, size=int(n * genes * share)), rng.integers(genes, size=int(n * genes * share))
    counts = csr_matrix((np.ones(len(rows), np.float32), (rows, cols)), shape=(n, genes))

    def ours() -> float:
        return sum(float(torch.from_numpy(block).sum()) for block in dense_blocks(counts))

    def slices() -> float:
        return sum(float(torch.from_numpy(counts[i : i + 128].toarray()).sum()) for i in range(0, n, 128))

    def one_by_one() -> float:
        return sum(float(torch.from_numpy(counts[i].toarray()).sum()) for i in range(n))

    def scvi() -> float:
        from anndata import AnnData
        from scvi.dataloaders import AnnDataLoader
        from scvi.model import SCVI

        adata = AnnData(counts)
        SCVI.setup_anndata(adata)
        manager = SCVI._get_most_recent_anndata_manager(adata)
        return sum(float(b["X"].sum()) for b in AnnDataLoader(manager, batch_size=128, shuffle=False))

    peers = {"scvi-tools AnnDataLoader": scvi, "slices of 128 rows": slices, "row by row": one_by_one}
    size = f"{n:,} cells x {genes:,} genes, {share:.0%} filled"
    return race("sparse counts to batches", size, ours, peers, equal=dict.fromkeys(peers, close(0.5, "sum of counts")))


def mixed(n: int) -> list[dict]:
    """iLISI of four patients in 10 dimensions, the search for neighbours included on both sides."""
    rng = np.random.default_rng(3)
    patient = rng.integers(4, size=n)
    z = (rng.normal(size=(n, 10)) + 0.5 * patient[:, None]).astype(np.float32)

    def scib() -> float:
        import scib_metrics
        from scib_metrics.nearest_neighbors import pynndescent

        return float(scib_metrics.ilisi_knn(pynndescent(z, n_neighbors=91), patient))

    return race(
        "iLISI", f"{n:,} spots", lambda: mixing.ilisi(z, patient), {"scib-metrics": scib},
        equal={"scib-metrics": close(0.05, "iLISI (its neighbours are approximate)")},
    )  # fmt: skip


def main() -> None:
    smoke = sizes()
    rows = []
    for n, genes in ((60, 8),) if smoke else ((500, 250), (2000, 250), (10_000, 250)):
        rows += correlations(n, genes)
    for n, genes in ((16, 40),) if smoke else ((128, 500), (128, 2000), (1024, 2000)):
        rows += likelihood(n, genes)
    for n in (300,) if smoke else (2_000, 8_000, 32_000):
        rows += batches(n, 50 if smoke else 1000)
    if not smoke:
        write("speed_genes", rows)  # what follows compiles for a minute
    for n in (200,) if smoke else (1000, 2000, 4000):
        rows += mixed(n)
    if not smoke:
        write("speed_genes", rows)


if __name__ == "__main__":
    main()
