"""Cell-type prototypes: the mean profile of each type in a single-cell reference, freed of what donors add.

The model is cell2location's regression of a reference (Kleshchevnikov et al. 2022), which CPNN takes its prototypes
from: counts ~ NB with mean (t[type, gene] + b[donor, gene]) * s[donor]. A cell's mean depends on its type and donor
alone, so that for a given dispersion the likelihood needs only the sums over the cells of each type and donor: a
reference of any size is fitted in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.counts import no_counts, whole_numbers

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Tensor

DONOR_SD = 0.3  # natural log, by which a donor's gene is expected to differ from the others'
ADDED_FROM = 9.0  # natural log below 1 at which an added donor effect starts
LEAST_CELLS = 25  # of a type: below, its mean profile is mostly chance
POOLED = "other"


@dataclass(frozen=True)
class Prototypes:
    """profiles (C, G) expected counts of a cell of each type, positive. donors : number; n_cells (C,).

    batch : (donors, G) what donors add, theta (G,) dispersion (variance = mean + mean^2 / theta), scale (donors,).
    """

    profiles: pd.DataFrame
    n_cells: pd.Series
    batch: np.ndarray
    theta: np.ndarray
    scale: np.ndarray
    note: str = ""

    @property
    def types(self) -> list[str]:
        return list(self.profiles.index)

    def to_adata(self) -> AnnData:
        """Types x genes: X the profiles; obs n_cells; var theta; uns note, donors' batch and scale."""
        from anndata import AnnData

        adata = AnnData(self.profiles.to_numpy(np.float32), obs=pd.DataFrame({"n_cells": self.n_cells}),
                        var=pd.DataFrame({"theta": self.theta}, index=self.profiles.columns))  # fmt: skip
        adata.varm["batch"] = self.batch.T.astype(np.float32)
        adata.uns["scale"], adata.uns[keys.NOTES] = self.scale, [self.note] if self.note else []
        return adata


def quality(
    reference: AnnData, *, mitochondrial: float = 0.3, genes: tuple[int, int] = (200, 2500), cells: int | None = None
) -> tuple[AnnData, pd.DataFrame]:
    """The usual cuts, each with what it leaves: cells of too high a mitochondrial share or too few or many genes, and
    genes in too few cells.

    cells : a gene must be seen in; None: 200, and max(10, 0.5 % of the cells) where the reference is small.
    """
    counts = reference.layers[keys.COUNTS]
    steps = [("as read", *reference.shape)]
    total = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    mito = np.asarray(counts[:, reference.var_names.str.upper().str.startswith("MT-")].sum(1)).ravel() / total
    seen = np.asarray((counts > 0).sum(1)).ravel()
    kept = mito < mitochondrial
    steps.append((f"mitochondrial share below {mitochondrial:g}", int(kept.sum()), reference.n_vars))
    kept &= (seen >= genes[0]) & (seen <= genes[1])
    steps.append((f"{genes[0]} to {genes[1]} genes a cell", int(kept.sum()), reference.n_vars))
    if not kept.any():
        message = f"no cell of {len(kept)} is left after the cuts on {genes[0]} to {genes[1]} genes and mitochondrial "
        raise InputError(message + f"share {mitochondrial:g}: the median cell shows {np.median(seen):.0f} genes")
    least = cells if cells is not None else (200 if kept.sum() >= 40_000 else max(10, round(0.005 * kept.sum())))
    common = np.asarray((counts[kept] > 0).sum(0)).ravel() >= least
    steps.append((f"genes in {least} cells or more", int(kept.sum()), int(common.sum())))
    return reference[kept, common].copy(), pd.DataFrame(steps, columns=["step", "cells", "genes"])


def shared_genes(reference: Sequence[str], target: Sequence[str], *, least: int = 100) -> list[str]:
    """Genes of both, in the order of the reference; InputError with examples and the suspected kind of id where few."""
    from stpath_core.io.genes import gene_names

    wanted = set(map(str, target))
    shared = [g for g in map(str, reference) if g in wanted]
    if len(shared) < least:
        kinds = [gene_names(list(names)) for names in (reference, target)]
        said = [f"{k.kind} of {k.species}, such as {', '.join(list(map(str, n))[:3])}" for k, n in
                zip(kinds, (reference, target), strict=True)]  # fmt: skip
        message = f"{len(shared)} of {len(wanted)} genes are in the reference (at least {least} are needed): the "
        raise InputError(message + f"reference names {said[0]}; the other names {said[1]}")
    return shared


def usable_types(
    reference: AnnData,
    column: str = keys.CELL_TYPE,
    *,
    least: int = LEAST_CELLS,
    small: Literal["drop", "pool"] = "drop",
) -> pd.Series:
    """Type of each cell, those of types under `least` cells dropped (nan) or pooled as "other"."""
    if small not in ("drop", "pool"):
        message = f"small={small!r}; types under {least} cells are either 'drop' or 'pool'"
        raise InputError(message)
    types = reference.obs[column].astype(str)
    n = types.value_counts()
    rare = n.index[n < least]
    if small == "pool" and n[rare].sum() >= least:
        return types.where(~types.isin(rare), POOLED)
    if len(rare) == len(n):
        message = f"no type has {least} cells; the largest are {n.head(3).to_dict()}: a larger reference, or a smaller "
        raise InputError(message + "`least`")
    return types.where(~types.isin(rare))


def clusters(reference: AnnData, resolutions: Sequence[float], *, seed: int = 0) -> pd.DataFrame:
    """Types found instead of named: Leiden clusters of the cells, a column of names per resolution (n, R).

    scanpy's usual way: log1p of counts per 10,000, 30 principal components, neighbours, Leiden (Traag et al. 2019).
    """
    from stpath_core.tables import quiet

    with quiet():
        import scanpy as sc

        found = sc.AnnData(reference.layers[keys.COUNTS].copy(), obs=reference.obs[[]].copy(), var=reference.var.copy())
        sc.pp.normalize_total(found, target_sum=1e4)
        sc.pp.log1p(found)
        sc.pp.pca(found, n_comps=min(30, min(found.shape) - 1), random_state=seed)
        sc.pp.neighbors(found, random_state=seed)
        for r in resolutions:
            sc.tl.leiden(found, r, key_added=f"leiden {r}", flavor="igraph", random_state=seed)
    return found.obs.astype(str)


def naive(reference: AnnData, types: pd.Series) -> pd.DataFrame:
    """Mean counts per type, (C, G): what one would do without thinking of donors."""
    sums, n, names = _grouped(reference, types)
    return pd.DataFrame(sums / n[:, None] + 1e-6, index=names, columns=reference.var_names)


def multiplied(t: Tensor, b: Tensor) -> Tensor:
    """A donor's factor on each gene: t exp(b), the same for all types. What donors do in log space, and the default."""
    return t * b.exp()


def added(t: Tensor, b: Tensor) -> Tensor:
    """The published form: t + exp(b), a donor's own molecules on top (cell2location). Starts near nothing."""
    return t + (b - ADDED_FROM).exp()


def fit_prototypes(
    reference: AnnData,
    types: pd.Series,
    *,
    donor: str = keys.DONOR,
    donor_effect: Callable[[Tensor, Tensor], Tensor] = multiplied,
    steps: int = 200,
    lr: float = 0.05,
) -> Prototypes:
    """Negative-binomial regression with the donor as batch. With one donor there is no batch to remove, and it says so.

    reference : raw counts in layers["counts"]. types : (cells,) as of `usable_types`, nan: not used.
    donor_effect : (t, b) -> the mean before the donor's scale, `multiplied` or `added`.

    log t leans to the gene's mean over types by as much as the gene's types differ beyond chance (empirical Bayes): a
    gene that no type owns, or a type of few cells, does not become a marker by noise. b leans to 0.
    """
    reference, types = _usable(reference, types)
    donors = reference.obs[donor].astype(str)
    names, who = sorted(types.unique()), sorted(donors.unique())
    pair = types + "\t" + donors
    sums, n, pairs = _grouped(reference, pair)  # (P, G), P pairs of type and donor
    type_of, donor_of = (np.array([o.index(p.split("\t")[i]) for p in pairs]) for i, o in ((0, names), (1, who)))
    depth = np.bincount(donor_of, weights=sums.sum(1)) / np.bincount(donor_of, weights=n)
    scale = np.log(depth / np.exp(np.mean(np.log(depth))))
    theta = _dispersion(reference, pair, sums, n, pairs)
    known = _by_type(sums / np.exp(scale)[donor_of, None], n, type_of, len(names))
    cells = np.bincount(type_of, weights=n)[:, None]
    log_t = np.log(known + 0.5 / cells)
    spread = np.ones(sums.shape[1])  # (G,) variance of log t over types
    fitted = None
    for prior in (spread, None):  # first on its own, then leaning by what the first said
        if prior is None:
            chance = 1 / (cells * known / (1 + known / theta) + 0.5)  # of log t, from the Fisher information
            spread = np.maximum(_weighted_variance(fitted[0], chance), 2e-3)
        fitted = _maximise(sums, n, type_of, donor_of, theta, spread, (log_t, scale), donor_effect, steps, lr)
    log_t, batch, scale = fitted
    note = "" if len(who) > 1 else f"one donor ({who[0]}): no donor effect can be told from the types"
    frame = pd.DataFrame(np.exp(log_t), index=names, columns=reference.var_names)
    return Prototypes(frame, types.value_counts().reindex(names), batch, theta, np.exp(scale), note)


def _usable(reference: AnnData, types: pd.Series) -> tuple[AnnData, pd.Series]:
    counts = reference.layers[keys.COUNTS]
    if not whole_numbers(counts):
        raise InputError(no_counts(counts, where="the reference"))
    used = types.notna().to_numpy()
    if types[used].nunique() < 2:
        message = f"{types[used].nunique()} cell types are left; prototypes need 2 or more: a lower `least`, or 'pool'"
        raise InputError(message)
    return reference[used], types[used]


def _maximise(sums, n, type_of, donor_of, theta, spread, start, donor_effect, steps, lr):
    """Maximum a posteriori of log t (C, G), b (D, G) and log s (D,) by Adam; float64, a few thousand numbers a gene."""
    import torch

    x, size, k, d, th = (torch.as_tensor(v) for v in (sums, n[:, None], type_of, donor_of, theta))
    several = len(start[1]) > 1
    log_t, log_s = (torch.tensor(v, requires_grad=True) for v in start)
    b = torch.zeros((len(start[1]), sums.shape[1]), dtype=torch.float64, requires_grad=True)
    lean = 0.5 / torch.as_tensor(spread)
    optimiser = torch.optim.Adam([log_t, b, log_s] if several else [log_t], lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        mean = donor_effect(log_t.exp()[k], b[d]) if several else log_t.exp()[k]
        mean = mean * (log_s - log_s.mean()).exp()[d, None]  # (P, G) of one cell
        loss = ((size * th + x) * (th + mean).log() - x * mean.log()).sum()
        loss = loss + (lean * (log_t - log_t.mean(0)).square()).sum() + (b.square() / (2 * DONOR_SD**2)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return log_t.numpy(), b.numpy() * several, (log_s - log_s.mean()).numpy()


def _weighted_variance(log_t: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(G,) how much log t varies over types beyond chance: DerSimonian and Laird's moments (1986)."""
    w = 1 / chance
    centre = (w * log_t).sum(0) / w.sum(0)
    q = (w * (log_t - centre) ** 2).sum(0)
    return (q - (len(log_t) - 1)) / (w.sum(0) - (w**2).sum(0) / w.sum(0))


def centred_cosine(profiles: pd.DataFrame, truth: pd.DataFrame) -> pd.Series:
    """Per type: cosine of log1p of counts per 10,000, centred over types, on the types and genes of both."""
    types = [t for t in profiles.index if t in truth.index]
    genes = profiles.columns.intersection(truth.columns)
    a, b = (f.loc[types, genes].to_numpy(float) for f in (profiles, truth))
    a, b = (np.log1p(1e4 * v / v.sum(1, keepdims=True)) for v in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return pd.Series((a * b).sum(1) / np.maximum(norms, 1e-12), index=types, name="cosine")


def planted_profiles(reference: AnnData, types: pd.Series) -> pd.DataFrame:
    """Of a virtual reference: the planted profile of each type (C, G), mixed as the reference mixes its fine types."""
    truth = reference.varm["prototypes"].T
    share = pd.crosstab(types, reference.obs[keys.CELL_TYPE].astype(str))
    share = share[[c for c in share if c in truth.index]]
    mixed = share.to_numpy() @ truth.loc[share.columns].to_numpy() / share.to_numpy().sum(1, keepdims=True)
    return pd.DataFrame(mixed, index=list(share.index), columns=reference.var_names)


def pseudobulk(
    reference: AnnData, types: pd.Series, *, n: int, cells: int = 200, seed: int = 0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Sums of cells drawn in known shares: counts (n, G), and shares (n, C) of the molecules by type.

    Shares of cells are drawn from a flat Dirichlet, cells with replacement.
    """
    rng, names = np.random.default_rng(seed), sorted(types.dropna().unique())
    of_type = [np.flatnonzero(types == t) for t in names]
    counts = np.zeros((n, reference.n_vars))
    held = np.zeros((n, len(names)))
    for row, shares in enumerate(rng.dirichlet(np.ones(len(names)), size=n)):
        for k, number in enumerate(rng.multinomial(cells, shares)):
            drawn = rng.choice(of_type[k], number)
            part = np.asarray(reference.layers[keys.COUNTS][drawn].sum(0)).ravel()
            counts[row] += part
            held[row, k] = part.sum()
    return counts, pd.DataFrame(held / held.sum(1, keepdims=True), columns=names)


def find_reference(data_dir: str, scrna: str) -> Path:
    """The h5ad of a reference: `scrna`, reference.h5ad in data_dir, or the one of a folder scrna/ in or beside it."""
    if scrna:
        return Path(scrna).expanduser()
    here, beside = Path(data_dir), Path(data_dir).parent
    found = [here / "reference.h5ad"] if (here / "reference.h5ad").is_file() else []
    found += [p for folder in (here, beside) for p in sorted(folder.glob("scrna/wu*.h5ad"))]
    if not found:
        message = f"{data_dir} has no reference.h5ad in it and no scrna/wu*.h5ad in it or beside it: pass "
        raise InputError(message + "-p scrna=FILE.h5ad to notebook 20, single cells with raw counts, types and donors")
    return found[0]


def annotation_levels(reference: AnnData) -> dict[str, str]:
    """Columns of a reference of yours by level: major and minor types where atlases name them so, else "cell_type"."""
    major, minor = (
        next((c for c in (f"celltype_{level}", f"cell_type_{level}") if c in reference.obs), keys.CELL_TYPE)
        for level in ("major", "minor")
    )
    return {"coarse": major, "medium": major, "fine": minor}


def _grouped(reference: AnnData, groups: pd.Series) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Sums of counts (K, G), cells (K,) and names of each group; nan belongs to none."""
    from scipy.sparse import csr_matrix

    codes, names = pd.factorize(groups, sort=True)
    rows = np.flatnonzero(codes >= 0)
    member = csr_matrix((np.ones(len(rows)), (codes[rows], rows)), shape=(len(names), len(codes)))
    sums = np.asarray((member @ reference.layers[keys.COUNTS]).todense(), np.float64)
    return sums, np.bincount(codes[rows]).astype(float), list(map(str, names))


def _by_type(sums: np.ndarray, n: np.ndarray, type_of: np.ndarray, n_types: int) -> np.ndarray:
    total, cells = np.zeros((n_types, sums.shape[1])), np.zeros(n_types)
    np.add.at(total, type_of, sums)
    np.add.at(cells, type_of, n)
    return total / cells[:, None]


def _dispersion(reference: AnnData, groups: pd.Series, sums: np.ndarray, n: np.ndarray, names: list[str]) -> np.ndarray:
    """theta (G,) by moments within groups: variance = mean + mean^2 / theta, kept within 0.05 to 1e4."""
    squares = reference.copy()
    squares.layers[keys.COUNTS] = reference.layers[keys.COUNTS].astype(np.float64).power(2)
    second, _, _ = _grouped(squares, groups)
    mean = sums / n[:, None]
    variance = second / n[:, None] - mean**2
    many = n >= 5
    over = ((variance - mean) * n[:, None])[many].sum(0) / np.maximum((mean**2 * n[:, None])[many].sum(0), 1e-9)
    return np.clip(1 / np.maximum(over, 1e-4), 0.05, 1e4)
