"""What one fold of expression is, for slides and spots alike: two sides of patients, a panel, and caught prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from stpath_core import deconvolution

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

LEAST_GENES = 100  # in common with the reference; half of a smaller panel
LEAST = 1e-6  # of a profile, per 10,000: its logarithm is finite

Solve = Callable[[np.ndarray, np.ndarray], deconvolution.Shares]  # counts (n, G), profiles (C, G)


class Rows(Protocol):
    """A table of slides or spots that can be cut to some of its rows."""

    def rows(self, chosen: np.ndarray) -> Rows: ...


T = TypeVar("T", bound=Rows)


@dataclass(frozen=True)
class Fold(Generic[T]):
    """train, test : of other patients. columns (g,) of the panel in the table. profiles (C, g) per 10,000, as the assay
    catches them; types : their names; absent : panel genes that the reference lacks, where all types are alike; apart :
    how the training rows were deconvolved, where they were."""

    train: T
    test: T
    columns: np.ndarray
    profiles: np.ndarray
    types: list[str]
    absent: list[str]
    apart: TakenApart | None = None

    def inner(self, held_out: np.ndarray) -> Fold[T]:
        """A fold inside this one: the held-out rows of `train` as its test side. Panel and prototypes stay."""
        return replace(self, train=self.train.rows(~held_out), test=self.train.rows(held_out))


@dataclass(frozen=True)
class TakenApart:
    """Training rows by prototypes. genes : in the reference and in the table; profiles (C, len(genes)) rows sum to 1;
    found : shares (n, C) of the rows, sensitivity of the genes."""

    genes: list[str]
    profiles: np.ndarray
    found: deconvolution.Shares

    def shares_of(self, counts: csr_matrix, names: pd.Index) -> np.ndarray:
        """Shares (m, C) of other rows (m, G) by their own expression, genes caught as in the training rows."""
        seen = counts[:, names.get_indexer(self.genes)].toarray()
        return self.found.of(seen, self.profiles)

    def at_level(
        self, panel: Sequence[str], level: np.ndarray, mixture: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[str]]:
        """Profiles of the panel (C, g) so that their mixture has the `level` (g,) of the training rows, and the panel
        genes that the reference lacks, which are alike in all types. mixture : (C,) of types; None: all alike."""
        place = {gene: i for i, gene in enumerate(self.genes)}
        there = [k for k, gene in enumerate(panel) if gene in place]
        seen = (self.profiles * self.found.sensitivity)[:, [place[panel[k]] for k in there]]
        mixed = seen.mean(0) if mixture is None else mixture @ seen
        out = np.repeat(level[None], len(seen), axis=0)
        out[:, there] = seen * (level[there] / np.maximum(mixed, 1e-12))
        return np.maximum(out, LEAST), [gene for gene in panel if gene not in place]


def take_apart(
    counts: csr_matrix, names: pd.Index, reference: pd.DataFrame, *, solve: Solve = deconvolution.deconvolve
) -> TakenApart:
    """Deconvolve training rows: counts (n, G) raw of genes `names`, reference (C, its genes) expected counts.

    solve : `deconvolution.deconvolve` for spots, whose rows share their patients; for bulk, where each row is another
    person, `bulk_deconvolution.deconvolve_bulk`.
    Raises InputError, with examples, where the two name too few genes alike.
    """
    from stpath_core.prototypes import shared_genes  # brings pandas; a fold alone does without

    genes = shared_genes(list(reference.columns), list(names), least=min(LEAST_GENES, len(names) // 2))
    rows = reference[genes].to_numpy(float)
    rows = rows / rows.sum(1, keepdims=True)
    return TakenApart(genes, rows, solve(counts[:, names.get_indexer(genes)].toarray(), rows))
