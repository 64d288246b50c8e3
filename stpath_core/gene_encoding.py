"""Stage 1 of Part 3: which genes, how the encoder is trained, and what it makes of spots it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from stpath_core import ranks
from stpath_core.errors import InputError
from stpath_core.expression import log_normalise
from stpath_core.fit import Progress, fit, pick_device
from stpath_core.likelihoods import count_table, nb_count_term
from stpath_core.models.gene_encoder import GeneVAE, GuidedGeneVAE, NBDecoder

EVAL_ROWS = 128  # spots encoded at a time: a block of 1,000 genes takes half a MB, which is used again, not paged in


@dataclass(frozen=True)
class SpotBatch:
    """x (B, D) what the encoder reads, standardised, counts (B, G) float32, batch (B,) and labels (B,) int64 (-1
    unknown), and the weight of the KL term."""

    x: Tensor
    counts: Tensor
    batch: Tensor
    labels: Tensor
    kl_weight: float

    def to(self, device: torch.device) -> SpotBatch:
        """Itself: the whole data set went to the device once, before the first step."""
        del device
        return self

    def share(self) -> SpotBatch:
        """The spots of this process, where several train together."""
        mine = ranks.share(len(self.x))
        return SpotBatch(self.x[mine], self.counts[mine], self.batch[mine], self.labels[mine], self.kl_weight)


def highly_variable(counts: sp.spmatrix | np.ndarray, batch: np.ndarray, *, n: int = 2000) -> np.ndarray:
    """Columns of the `n` genes that vary most within batches, ascending; of training spots only.

    By the variance of Pearson residuals under a negative binomial of constant dispersion (Lause, Berens and Kobak
    2021), ranked in each batch, as scanpy computes it: Loess-based ranking needs a package that the lock does without.

    counts : (n_spots, n_genes) raw counts. batch : (n_spots,) names or codes. All genes, where there are at most n.
    """
    import anndata
    import scanpy as sc

    check_counts(counts)
    if counts.shape[1] <= n:
        return np.arange(counts.shape[1])
    table = anndata.AnnData(sp.csr_matrix(counts), obs={"batch": np.asarray(batch).astype(str)})
    found = sc.experimental.pp.highly_variable_genes(
        table, n_top_genes=n, flavor="pearson_residuals", batch_key="batch", inplace=False, check_values=False
    )
    return np.flatnonzero(found["highly_variable"].to_numpy())


def fit_gene_encoder(
    counts: sp.spmatrix | np.ndarray,
    batch: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    inputs: np.ndarray | None = None,
    latent: int = 10,
    hidden: int = 128,
    layers: int = 1,
    dropout: float = 0.3,
    input_dropout: float = 0.0,
    gene_dropout: float = 0.0,
    decoder: type[NBDecoder] = NBDecoder,
    steps: int = 600,
    batch_size: int = 512,
    warmup: float = 0.5,
    kl_weight: float = 1.0,
    classifier_weight: float = 50.0,
    lr: float = 8e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = iter,
) -> tuple[GeneVAE, list[dict[str, float]]]:
    """Train a batch-agnostic encoder; with labels a guided one. Returns it, in evaluation mode, with its history.

    counts : (n, G) raw counts of the training patients, genes already chosen. batch : (n,) whose batch effect the
    decoder is to take up, usually the patient. labels : (n,) class index, -1 unknown; None for the unguided encoder.
    inputs : (n, D) what the encoder is to read of each spot; None: log1p of its counts per 10,000.
    input_dropout : share of the inputs that it misses at each step; the decoder still has to explain all counts.
    gene_dropout : the same, but all spots of a step miss the same genes; at 0.4 a step takes no longer.
    steps, batch_size : of spots; as many batches as that are drawn, each epoch in a new order.
    warmup : share of the steps over which the weight of the KL term grows from 0 to `kl_weight`.
    classifier_weight : of the guided encoder's cross-entropy beside the evidence bound.

    Raises InputError for counts that are negative, fractional or all zero in a spot, and for a single batch.
    """
    check_counts(counts)
    names, code = np.unique(np.asarray(batch).astype(str), return_inverse=True)
    if len(names) < 2:
        msg = f"all {len(code)} spots come from one batch ({names[0]}); what differs between patients cannot be told "
        raise InputError(msg + "from what differs between tissues with fewer than 2: add patients, or use PCA")
    n, n_genes = counts.shape
    x = torch.from_numpy(log_normalise(_dense(counts)) if inputs is None else np.asarray(inputs, np.float32))
    size = {
        "n_inputs": x.shape[1],
        "latent": latent,
        "hidden": hidden,
        "layers": layers,
        "dropout": dropout,
        "input_dropout": input_dropout,
        "gene_dropout": gene_dropout,
        "decoder": decoder,
    }
    torch.manual_seed(seed)
    if labels is None:
        model, classes = GeneVAE(n_genes, len(names), **size), np.full(n, -1)
    else:
        classes = _check_labels(np.asarray(labels), n)
        size["classifier_weight"] = classifier_weight
        model = GuidedGeneVAE(n_genes, len(names), int(classes.max()) + 1, **size)
    where = pick_device(device)
    model.standardise(x)
    held = torch.from_numpy(_dense(counts)).to(where)  # once: moving rows costs more than the arithmetic on them
    x = model.standardised(x).to(where)
    s, y = (torch.from_numpy(v.astype(np.int64)).to(where) for v in (code, classes))
    table, per_epoch = count_table(held), max(1, round(n / batch_size))

    def batch_at(step: int) -> SpotBatch:
        weight = kl_weight * min(1.0, (step + 1) / max(1, warmup * steps))
        if per_epoch == 1:  # everything at once: no order, nothing to be moved
            return SpotBatch(x, held, s, y, weight)
        epoch, part = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(n)
        rows = torch.from_numpy(order[part * n // per_epoch : (part + 1) * n // per_epoch]).to(where)
        return SpotBatch(x[rows], held[rows], s[rows], y[rows], weight)

    def step_loss(net: GeneVAE, b: SpotBatch) -> dict[str, Tensor]:
        terms = net.losses(b.x, b.counts, b.batch, b.labels, b.kl_weight)
        of_theta = nb_count_term(table, net.decoder.log_theta.exp())  # of the whole training set, at every step
        return terms | {"loss": terms["loss"] - of_theta, "nll": terms["nll"] - of_theta}

    history = fit(
        model, step_loss, batch_at, steps=steps, lr=lr, weight_decay=weight_decay, clip=50.0, seed=seed, device=where,
        progress=progress, fused=True, mixed=False,
    )  # fmt: skip
    return model.eval(), history


def encode(
    model: GeneVAE, counts: sp.spmatrix | np.ndarray | None = None, *, inputs: np.ndarray | None = None
) -> np.ndarray:
    """The embeddings of spots, (n, latent) float32, from their counts (n, G) or from what the encoder was made to read,
    inputs (n, D). No batch is asked for, so the patients may be new ones."""
    given, where = counts if inputs is None else inputs, next(model.parameters()).device
    out = []
    with torch.inference_mode():
        for rows in dense_blocks(given):
            x = torch.from_numpy(log_normalise(rows) if inputs is None else rows)
            out.append(model.encode(x.to(where)).cpu().numpy())
    return np.concatenate(out)


def check_counts(counts: sp.spmatrix | np.ndarray) -> None:
    """Raise InputError unless counts are whole, not negative, and above zero somewhere in every spot."""
    values = counts.data if sp.issparse(counts) else np.asarray(counts)
    if values.size and (not np.isfinite(values).all() or values.min() < 0 or np.any(values != np.rint(values))):
        msg = f"counts hold {values[values != np.rint(values)][:3].tolist() or values.min()}; raw counts are whole "
        raise InputError(msg + "numbers from 0 on: pass layers['counts'], not values that were normalised or logged")
    empty = np.flatnonzero(np.asarray(counts.sum(1)).ravel() == 0)
    if len(empty):
        msg = f"{len(empty)} of {counts.shape[0]} spots have no count at all (row {empty[0]} first); leave them out"
        raise InputError(msg)


def _check_labels(labels: np.ndarray, n: int) -> np.ndarray:
    if labels.shape != (n,) or len(np.unique(labels[labels >= 0])) < 2:
        msg = (
            f"labels has shape {labels.shape} and {len(np.unique(labels[labels >= 0]))} classes; expected ({n},) with "
        )
        raise InputError(msg + "at least 2 classes and -1 for unknown; without labels pass None")
    return labels


def dense_blocks(values: sp.spmatrix | np.ndarray, rows: int = EVAL_ROWS) -> Iterator[np.ndarray]:
    """Matrix (n, G) as dense float32 blocks of `rows` rows, in order. Sparse ones are written into one space, again and
    again: a block is good until the next is asked for."""
    if not (sp.issparse(values) and values.format == "csr"):
        yield from (_dense(values[start : start + rows]) for start in range(0, values.shape[0], rows))
        return
    space = np.empty((min(rows, values.shape[0]), values.shape[1]), np.float32)
    for start in range(0, values.shape[0], rows):
        ends = values.indptr[start : start + rows + 1]
        filled, n = slice(ends[0], ends[-1]), len(ends) - 1
        part = (values.data[filled].astype(np.float32, copy=False), values.indices[filled], ends - ends[0])
        yield sp.csr_matrix(part, shape=(n, values.shape[1])).toarray(out=space[:n])


def _dense(counts: sp.spmatrix | np.ndarray) -> np.ndarray:
    return np.asarray(counts.toarray() if sp.issparse(counts) else counts, np.float32)
