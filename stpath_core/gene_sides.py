"""What stands beside a picture in stage 2: four ways to say a spot's expression, each fitted on training patients alone.

Every function takes a `Fold` and returns z (n, k) of all spots, those of the held-out patient encoded afterwards. Labels
reach a function only with those of the held-out patient hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from stpath_core.errors import InputError
from stpath_core.gene_encoding import encode, fit_gene_encoder, highly_variable
from stpath_core.leakage import hidden_labels
from stpath_core.recognition import NOT_A_CLASS
from stpath_core.spots import centred
from stpath_core.tissue.assay_card import log_normalise, pca

RAW_GENES = 1000  # of `raw`: those that vary most among training spots


@dataclass(frozen=True)
class Fold:
    """One held-out patient. counts (n, G) raw; patient, section (n,); label (n,) with the held-out patient's hidden."""

    counts: np.ndarray
    patient: np.ndarray
    section: np.ndarray
    label: np.ndarray
    held_out: str
    seed: int = 0
    epochs: int = 200

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the training spots."""
        return np.flatnonzero(self.patient != self.held_out)


def fold(
    counts: np.ndarray, patient: np.ndarray, section: np.ndarray, label: np.ndarray, held_out: str, **options: int
) -> Fold:
    """A fold whose labels say nothing of the held-out patient. options : seed, epochs."""
    if held_out not in patient:
        message = f"held_out={held_out!r} is none of the patients {', '.join(np.unique(patient))}"
        raise InputError(message)
    shown = hidden_labels(label, patient == held_out)
    return Fold(np.asarray(counts, np.float32), patient, section, shown, held_out, **options)


def raw(f: Fold) -> np.ndarray:
    """Log expression of the genes that vary most, standardised: what CLIP on expression uses, batch effect and all."""
    logged = log_normalise(f.counts)
    return _standard(logged[:, np.argsort(-logged[f.rows].var(0), kind="stable")[:RAW_GENES]], f.rows)


def pca_30(f: Fold) -> np.ndarray:
    """30 principal components of log expression: noise goes, the batch effect stays."""
    return _scaled(pca(log_normalise(f.counts), train=f.rows, seed=f.seed), f.rows)


def section_z(f: Fold) -> np.ndarray:
    """The same after every gene was standardised within its section: the simplest way to lose a batch effect, and with
    it whatever a whole section has more of."""
    return _scaled(pca(centred(log_normalise(f.counts), f.section, scaled=True), train=f.rows, seed=f.seed), f.rows)


def scvi(f: Fold) -> np.ndarray:
    """The mean of q(z | x) of an encoder that never sees the patient, whose decoder does (scVI-like)."""
    return _encoded(f, None)


def scanvi(f: Fold) -> np.ndarray:
    """The same, guided by the labels of the training patients (scANVI-like)."""
    label = f.label[f.rows]
    known = ~np.isin(label, NOT_A_CLASS)
    classes = np.unique(label[known])
    return _encoded(f, np.where(known, np.searchsorted(classes, label), -1))


def _encoded(f: Fold, classes: np.ndarray | None) -> np.ndarray:
    genes = highly_variable(f.counts[f.rows], f.patient[f.rows])
    model, _ = fit_gene_encoder(
        f.counts[f.rows][:, genes], f.patient[f.rows], classes, steps=f.epochs, seed=f.seed, device="cpu"
    )
    return _standard(encode(model, f.counts[:, genes]), f.rows)


def _standard(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Each column by mean and SD of the training spots."""
    return ((z - z[rows].mean(0)) / (z[rows].std(0) + 1e-6)).astype(np.float32)


def _scaled(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """All columns by the SD of the first, so that later components stay small."""
    return (z / (z[rows, 0].std() + 1e-6)).astype(np.float32)


SIDES: Mapping[str, Callable[[Fold], np.ndarray]] = MappingProxyType(
    {"raw": raw, "pca": pca_30, "section_z": section_z, "scvi": scvi, "scanvi": scanvi}
)
