"""Stage 1 of Part 3: which genes, how the encoder is trained, and what it makes of spots it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from stpath_core.errors import InputError
from stpath_core.fit import Progress, fit, pick_device
from stpath_core.models.gene_encoder import GeneVAE, GuidedGeneVAE, NBDecoder

EVAL_ROWS = 4096  # spots encoded at a time


@dataclass(frozen=True)
class SpotBatch:
    """counts (B, G) float32, batch (B,) and labels (B,) int64 (-1 unknown), and how far the warm-up is (0 to 1)."""

    counts: Tensor
    batch: Tensor
    labels: Tensor
    kl_weight: float

    def to(self, device: torch.device) -> SpotBatch:
        """Itself: the whole data set went to the device once, before the first step."""
        del device
        return self


def highly_variable(counts: sp.spmatrix | np.ndarray, batch: np.ndarray, *, n: int = 2000) -> np.ndarray:
    """Columns of the `n` genes that vary most within batches, ascending; of training spots only.

    By the variance of Pearson residuals under a negative binomial of constant dispersion (Lause, Berens and Kobak 2021),
    ranked in each batch, as scanpy computes it: Loess-based ranking needs a package that the lock does without.

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
    latent: int = 10,
    hidden: int = 128,
    layers: int = 1,
    dropout: float = 0.1,
    decoder: type[NBDecoder] = NBDecoder,
    epochs: int = 200,
    kl_epochs: int = 100,
    batch_size: int = 1024,
    lr: float = 4e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = iter,
) -> tuple[GeneVAE, list[dict[str, float]]]:
    """Train a batch-agnostic encoder; with labels a guided one. Returns it, in evaluation mode, with its history.

    counts : (n, G) raw counts of the training patients, genes already chosen. batch : (n,) whose batch effect the
    decoder is to take up, usually the patient. labels : (n,) class index, -1 unknown; None for the unguided encoder.
    kl_epochs : over which the weight of the KL term grows from 0 to 1.

    Raises InputError for counts that are negative, fractional or all zero in a spot, and for a single batch.
    """
    check_counts(counts)
    names, code = np.unique(np.asarray(batch).astype(str), return_inverse=True)
    if len(names) < 2:
        msg = f"all {len(code)} spots come from one batch ({names[0]}); what differs between patients cannot be told "
        raise InputError(msg + "from what differs between tissues with fewer than 2: add patients, or use PCA")
    n, n_genes = counts.shape
    size = {"latent": latent, "hidden": hidden, "layers": layers, "dropout": dropout, "decoder": decoder}
    torch.manual_seed(seed)
    if labels is None:
        model, classes = GeneVAE(n_genes, len(names), **size), np.full(n, -1)
    else:
        classes = _check_labels(np.asarray(labels), n)
        model = GuidedGeneVAE(n_genes, len(names), int(classes.max()) + 1, **size)
    where = pick_device(device)
    held = torch.from_numpy(_dense(counts)).to(where)  # once: moving rows costs more than the arithmetic on them
    s, y = (torch.from_numpy(v.astype(np.int64)).to(where) for v in (code, classes))
    per_epoch = max(1, round(n / batch_size))

    def batch_at(step: int) -> SpotBatch:
        epoch, part = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(n)
        rows = torch.from_numpy(order[part * n // per_epoch : (part + 1) * n // per_epoch]).to(where)
        return SpotBatch(held[rows], s[rows], y[rows], min(1.0, (epoch + 1) / max(1, kl_epochs)))

    history = fit(
        model, lambda m, b: m.losses(b.counts, b.batch, b.labels, b.kl_weight), batch_at, steps=epochs * per_epoch,
        lr=lr, weight_decay=weight_decay, clip=50.0, seed=seed, device=where, progress=progress,
    )  # fmt: skip
    return model.eval(), history


def encode(model: GeneVAE, counts: sp.spmatrix | np.ndarray) -> np.ndarray:
    """The embeddings of spots, (n, latent) float32. No batch is asked for, so the patients may be new ones."""
    where = next(model.parameters()).device
    out = []
    with torch.inference_mode():
        for start in range(0, counts.shape[0], EVAL_ROWS):
            rows = torch.from_numpy(_dense(counts[start : start + EVAL_ROWS])).to(where)
            out.append(model.encode(rows).cpu().numpy())
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


def _dense(counts: sp.spmatrix | np.ndarray) -> np.ndarray:
    return np.asarray(counts.toarray() if sp.issparse(counts) else counts, np.float32)
