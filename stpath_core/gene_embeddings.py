"""Embeddings of expression with one patient held out: what stage 1 of Part 3 offers, and the simple ones it must beat.

Inductive: genes, scaling and encoders come from the training patients; the held-out patient's spots are encoded
afterwards. A method that standardises within a section uses that section's own mean and SD, of expression, never of
labels: a section is one measurement, and it can be centred on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.sparse as sp

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.expression import log_normalise
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import check_hdf5, reads
from stpath_core.leakage import hidden_labels
from stpath_core.probes import NOT_A_CLASS, check_taught
from stpath_core.recognition_cohorts import words
from stpath_core.spots import centred, neighbourhood_mean
from stpath_core.tissue.assay_card import pca, top_genes

if TYPE_CHECKING:
    from anndata import AnnData

GENES = 1000  # read by every method, chosen on the training patients


@dataclass(frozen=True)
class GeneSpots:
    """Spots as stage 1 sees them. counts (n, G) raw; patient, section, label (n,) words; xy_um (n, 2)."""

    counts: sp.csr_matrix
    patient: np.ndarray
    section: np.ndarray
    label: np.ndarray
    xy_um: np.ndarray

    @classmethod
    def of(cls, adata: AnnData) -> GeneSpots:
        """From a table with layers["counts"] (or raw counts in X), obs patient, section, label and obsm["spatial"].

        A missing label (nan) becomes "unlabelled". Raises InputError for a missing key, for spots without a patient or
        section, for counts that were logged, for spots without counts, for one patient.
        """
        from stpath_core.gene_encoding import check_counts

        lacking = [name for name in (keys.PATIENT, keys.SECTION, keys.LABEL) if name not in adata.obs]
        if lacking or keys.SPATIAL not in adata.obsm:
            what = f"obs[{lacking[0]!r}]" if lacking else f"obsm[{keys.SPATIAL!r}]"
            message = (
                f"{what} is missing; the table has obs {list(adata.obs)} and obsm {list(adata.obsm)}: add it (the "
            )
            raise InputError(message + f"batch is the patient; label may be {keys.UNLABELLED!r} throughout)")
        counts = sp.csr_matrix(adata.layers.get(keys.COUNTS, adata.X))
        check_counts(counts)
        who = [words(adata.obs, name) for name in (keys.PATIENT, keys.SECTION, keys.LABEL)]
        spots = cls(counts, *who, np.asarray(adata.obsm[keys.SPATIAL], float))
        if len(spots.patients) < 2:
            message = f"all {len(counts.indptr) - 1} spots are of patient {spots.patients[0]!r}; with one patient the "
            message += "batch effect and the biology are the same difference, and nobody is left to be held out: give "
            message += "three or more, better six (with two, one held out leaves one: enough for the simple methods, "
            raise InputError(message + "too few for an encoder)")
        return spots

    @property
    def patients(self) -> list[str]:
        """Their names, sorted: each is held out once."""
        return [str(name) for name in np.unique(self.patient)]


class Method(Protocol):
    """An embedding (n, k) of all spots, fitted on the rows `train` (n,) bool, over the genes `columns`."""

    def __call__(
        self, spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int, **options
    ) -> np.ndarray: ...


def logged(spots: GeneSpots, columns: np.ndarray) -> np.ndarray:
    """(n, g) float32 log1p of counts per 10,000 of the chosen genes."""
    return log_normalise(spots.counts[:, columns].toarray())


def raw(spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int) -> np.ndarray:
    """Log expression, each gene standardised by the training spots."""
    del seed
    values = logged(spots, columns)
    return (values - values[train].mean(0)) / (values[train].std(0) + 1e-6)


def components(spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int) -> np.ndarray:
    """30 principal components of log expression."""
    return pca(logged(spots, columns), train=np.flatnonzero(train), seed=seed)


def section_z(spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int) -> np.ndarray:
    """The same, each component with mean 0 and SD 1 in each section: the strongest of the simple ones."""
    return centred(components(spots, train, columns, seed=seed), spots.section, scaled=True)


def neighbourhood(spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int) -> np.ndarray:
    """30 principal components of log expression averaged over each spot's 3 x 3 neighbourhood."""
    values = neighbourhood_mean(logged(spots, columns), spots.xy_um, spots.section)
    return pca(values, train=np.flatnonzero(train), seed=seed)


def scvi(
    spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int, guided: bool = False, **options
) -> np.ndarray:
    """Mean of q(z | x) of an encoder that never sees the patient; guided: with the labels of the training spots."""
    from stpath_core.gene_encoding import encode, fit_gene_encoder

    counts = spots.counts[:, columns]
    known = np.asarray(counts.sum(1)).ravel() > 0  # a spot may be empty on the chosen genes
    rows = train & known
    labels = class_codes(spots.label)[rows] if guided else None
    model, _ = fit_gene_encoder(counts[rows], spots.patient[rows], labels, seed=seed, **options)
    return encode(model, counts)


def scanvi(spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int, **options) -> np.ndarray:
    """The guided encoder."""
    return scvi(spots, train, columns, seed=seed, guided=True, **options)


def scvi_section(
    spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int, guided: bool = False, **options
) -> np.ndarray:
    """An encoder that starts where `section_z` ends: it reads those components of a spot and of its neighbourhood, and
    what it makes of them is standardised in each section once more."""
    from stpath_core.gene_encoding import encode, fit_gene_encoder

    own = section_z(spots, train, columns, seed=seed)
    inputs = np.concatenate([own, neighbourhood_mean(own, spots.xy_um, spots.section)], 1)
    counts = spots.counts[:, columns]
    rows = train & (np.asarray(counts.sum(1)).ravel() > 0)
    labels = class_codes(spots.label)[rows] if guided else None
    model, _ = fit_gene_encoder(counts[rows], spots.patient[rows], labels, inputs=inputs[rows], seed=seed, **options)
    return centred(encode(model, inputs=inputs), spots.section, scaled=True)


def scanvi_section(spots: GeneSpots, train: np.ndarray, columns: np.ndarray, *, seed: int, **options) -> np.ndarray:
    """The same, guided by the labels of the training spots."""
    return scvi_section(spots, train, columns, seed=seed, guided=True, **options)


METHODS: Mapping[str, Method] = {
    "raw": raw, "pca": components, "section_z": section_z, "neighbourhood": neighbourhood, "scvi": scvi,
    "scanvi": scanvi, "scvi_section": scvi_section, "scanvi_section": scanvi_section,
}  # fmt: skip
GeneChoice = Callable[..., np.ndarray]  # counts, batch, n= -> columns


def abundant(counts: sp.csr_matrix, batch: np.ndarray, *, n: int) -> np.ndarray:
    """Columns of the `n` genes of highest total count, ascending: a choice for sparse spots, where few others vary
    beyond their noise."""
    del batch
    return np.sort(top_genes(counts, n))


def class_codes(label: np.ndarray) -> np.ndarray:
    """(n,) index into the sorted classes, -1 for undetermined and unlabelled."""
    known = ~np.isin(label, NOT_A_CLASS)
    codes = np.full(len(label), -1)
    codes[known] = np.unique(label[known], return_inverse=True)[1]
    return codes


def embed_fold(
    method: str | Method,
    spots: GeneSpots,
    held_out: str | Sequence[str],
    *,
    genes: int = GENES,
    choose: GeneChoice | None = None,
    columns: np.ndarray | None = None,
    transductive: bool = False,
    seed: int = 0,
    **options,
) -> np.ndarray:
    """(n, k) float32 embedding of all spots, fitted without the held-out patient (or patients).

    method : a name of METHODS, or a callable like them. choose : picks `genes` genes from the counts and the patients
    of the training spots; None: `gene_encoding.highly_variable`. columns : genes already chosen that way.
    transductive : the held-out patient's expression is seen too, its labels never. options go to the method (steps,
    latent, kl_weight, ... of `gene_encoding.fit_gene_encoder`). InputError where those who are left are too few: one
    patient for an encoder, one class for a guided one.
    """
    from stpath_core.gene_encoding import highly_variable

    if isinstance(method, str) and method not in METHODS:
        message = f"method={method!r}; choose one of {', '.join(METHODS)}, or give a callable"
        raise InputError(message)
    out = np.isin(spots.patient, held_out)
    lost = set(np.atleast_1d(held_out)) - set(spots.patients)
    if lost or out.all():
        message = f"held_out={held_out!r} leaves nobody to learn from, or is nobody: patients are {spots.patients}"
        raise InputError(message)
    train = np.ones(len(out), bool) if transductive else ~out
    seen = replace(spots, label=hidden_labels(spots.label, out, blank=keys.UNLABELLED))
    made = METHODS[method] if isinstance(method, str) else method
    _check_left(made, options, seen, train, held_out)
    if columns is None:
        columns = (choose or highly_variable)(spots.counts[train], spots.patient[train], n=genes)
    return np.asarray(made(seen, train, columns, seed=seed, **options), np.float32)


def _check_left(made: Method, options: Mapping, seen: GeneSpots, train: np.ndarray, held_out) -> None:
    """Raise InputError where too few patients are left for an encoder, or too few classes for a guided one."""
    while isinstance(made, partial):
        made, options = made.func, {**made.keywords, **options}
    if made not in (scvi, scanvi, scvi_section, scanvi_section):
        return
    left = np.unique(seen.patient[train])
    if len(left) < 2:
        who = ", ".join(map(str, np.atleast_1d(held_out)))
        message = f"holding out {who} leaves one patient ({left[0]}); an encoder cannot tell what differs between "
        message += "patients from what differs between tissues with fewer than two: give three patients or more, or "
        raise InputError(message + "take a method that trains no encoder (raw, pca, section_z, neighbourhood)")
    if made in (scanvi, scanvi_section) or options.get("guided"):
        check_taught(seen.label[train], held_out)


def embed_folds(
    spots: GeneSpots,
    methods: Mapping[str, str | Method],
    *,
    genes: int = GENES,
    choose: GeneChoice | None = None,
    seed: int = 0,
    folds: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[Iterable], Iterable] = iter,
    **options,
) -> dict[str, dict[str, np.ndarray]]:
    """Every method with every patient held out: name -> held-out patient -> (n, k). As `embed_fold`; the genes of a
    fold are chosen once for all methods.

    folds : patients to hold out; None: each in turn. workers : processes that share them, where all that is given can
    be sent to a process (a function of a module, not of a notebook).
    """
    from stpath_core.parallel import each

    held = list(folds or spots.patients)
    one = partial(_embed_methods, spots, methods, genes=genes, choose=choose, seed=seed, **options)
    parts = dict(zip(progress(held), each(one, held, workers=workers), strict=True))
    return {name: {who: parts[who][name] for who in held} for name in methods}


def _embed_methods(spots: GeneSpots, methods, who: str, *, genes, choose, seed, **options) -> dict[str, np.ndarray]:
    from stpath_core.fit import one_torch_thread
    from stpath_core.gene_encoding import highly_variable

    rows = spots.patient != who
    columns = (choose or highly_variable)(spots.counts[rows], spots.patient[rows], n=genes)
    with one_torch_thread():
        return {
            name: embed_fold(method, spots, who, columns=columns, seed=seed, **options)
            for name, method in methods.items()
        }


def write_embeddings(path: str | Path, embeddings: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Keep name -> held-out patient -> (n, k) as HDF5, a dataset [held_out][name], in the order of the spots."""
    import h5py

    with atomic_path(Path(path)) as aside, h5py.File(aside, "w") as file:
        for name, folds in embeddings.items():
            for who, z in folds.items():
                file[f"{who}/{name}"] = np.asarray(z, np.float32)


@reads
def read_embeddings(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """What `write_embeddings` kept: name -> held-out patient -> (n, k)."""
    import h5py

    out: dict[str, dict[str, np.ndarray]] = {}
    check_hdf5(Path(path))
    with h5py.File(path) as file:
        for who, group in file.items():
            for name, z in group.items():
                out.setdefault(name, {})[who] = z[:]
    return out
