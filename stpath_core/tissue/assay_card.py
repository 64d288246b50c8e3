"""What spots and dissociated cells look like in numbers, real and virtual measured alike: the calibration card.

`spot_card` is what the strengths of `AssayEffects` were set by, beside HER2ST; `cell_counts` does the same for single
cells, beside Wu et al. benchmarks/calibrate_assays.py measures both sides and writes data/calibration.json. The ranges
of `LIMITS` were fixed before any strength was. No method of ours is run here: PCA, a linear probe, and counting.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, issparse
from scipy.spatial import cKDTree

from stpath_core import keys
from stpath_core.expression import log_normalise

TOP_GENES = 2000  # genes of highest total count that real data are measured on: as many as the virtual assays see
PANEL = 250  # genes of highest total count, for the halves
COMPONENTS = 30
NEIGHBOURS = 30
MEAN_EDGES = (0.1, 0.3, 1.0, 3.0, 10.0, np.inf)  # counts per spot, of the mean-variance curve

# range at the defaults, and what HER2ST shows (eight annotated sections, one per patient)
LIMITS = {
    "mixing": (0.0, 0.05),
    "unseen patient F1": (0.30, 0.45),
    "same patient F1": (0.50, 0.65),
    "halves": (0.19, 0.29),
}


class Spots(NamedTuple):
    """What the card needs of a cohort. counts (N, G) raw; the others (N,), xy_um (N, 2) in the section's frame."""

    counts: np.ndarray
    patient: np.ndarray
    section: np.ndarray
    label: np.ndarray
    xy_um: np.ndarray


def top_genes(counts: np.ndarray | csr_matrix, n: int) -> np.ndarray:
    """Columns of the `n` genes of highest total count, highest first."""
    return np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[:n]


def spot_card(spots: Spots, *, seed: int = 0) -> dict[str, float]:
    """The card of a cohort of spots; spots without a single count are left out.

    counts per spot: median over all, smallest and largest section median, SD of the natural log within a section
    zero share; overdispersion; share of each gene's variance of
    log expression that lies between patients, and, of the rest, between classes (sums over genes)
    mixing, within-class mixing; unseen patient F1; same patient F1; halves
    neighbours alike: share of adjacent spots that carry one label, labelled spots only; undetermined: share of spots
    """
    keep = np.asarray(spots.counts.sum(1)).ravel() > 0
    spots = Spots(*(np.asarray(values)[keep] for values in spots))
    total, sections = spots.counts.sum(1), np.unique(spots.section)
    medians = [np.median(total[spots.section == s]) for s in sections]
    logged = log_normalise(spots.counts)
    labelled = spots.label != keys.UNDETERMINED
    between, classes = variance_shares(logged, spots.patient, spots.label)
    embedding = pca(logged, seed=seed)
    return {
        "counts per spot": float(np.median(total)),
        "counts, smallest section": float(min(medians)),
        "counts, largest section": float(max(medians)),
        "counts, SD of log": float(np.mean([np.log(total[spots.section == s]).std() for s in sections])),
        "zero share": float((spots.counts == 0).mean()),
        "overdispersion": overdispersion(spots.counts, spots.section),
        "variance between patients": between,
        "variance between classes": classes,
        "mixing": mixing(embedding, spots.patient),
        "mixing within class": mixing_within(embedding[labelled], spots.patient[labelled], spots.label[labelled]),
        "unseen patient F1": unseen_patient_f1(logged, spots, seed=seed),
        "same patient F1": same_patient_f1(logged, spots, seed=seed),
        "halves": halves(spots.counts, spots.section, seed=seed),
        "neighbours alike": neighbours_alike(spots),
        "undetermined": float(1 - labelled.mean()),
    }


def pca(logged: np.ndarray, *, train: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """(N, 30) principal components of all rows, fitted on those of `train` (default all), genes centred only."""
    from sklearn.decomposition import PCA

    fit = logged if train is None else logged[train]
    model = PCA(min(COMPONENTS, len(fit) - 1, fit.shape[1]), svd_solver="randomized", random_state=seed).fit(fit)
    return model.transform(logged)


def mixing(embedding: np.ndarray, patient: np.ndarray) -> float:
    """Mean over spots of the share of the 30 nearest neighbours, self left out, that come from another patient."""
    near = cKDTree(embedding).query(embedding, k=min(NEIGHBOURS + 1, len(embedding)))[1]
    itself = near == np.arange(len(near))[:, None]
    itself[~itself.any(1), -1] = True  # where many lie on one place, itself may be none of those found
    others = near[~itself].reshape(len(near), -1)
    return float((patient[others] != patient[:, None]).mean())


def mixing_within(embedding: np.ndarray, patient: np.ndarray, label: np.ndarray) -> float:
    """Mixing among the spots of one class, mean over the classes that two patients or more have (30 spots each)."""
    values = []
    for name in np.unique(label):
        own = label == name
        patients, n = np.unique(patient[own], return_counts=True)
        if (n > NEIGHBOURS).sum() >= 2:
            enough = own & np.isin(patient, patients[n > NEIGHBOURS])
            values.append(mixing(embedding[enough], patient[enough]))
    return float(np.mean(values)) if values else float("nan")


def _probe(embedding: np.ndarray, label: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Labels of the test rows by linear discriminant analysis with equal priors."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes, n = np.unique(label[train], return_counts=True)
    if len(classes) < 2 or len(train) <= len(classes):
        return np.full(len(test), classes[n.argmax()])
    model = LinearDiscriminantAnalysis(priors=np.full(len(classes), 1 / len(classes)))
    return model.fit(embedding[train], label[train]).predict(embedding[test])


def unseen_patient_f1(logged: np.ndarray, spots: Spots, *, seed: int = 0) -> float:
    """Macro-F1 of pooled predictions for one left-out patient after the other; PCA fitted on the others' spots."""
    from sklearn.metrics import f1_score

    label = np.asarray(spots.label, str)
    labelled, guess = label != keys.UNDETERMINED, label.copy()
    for who in np.unique(spots.patient):
        train, test = (np.flatnonzero(labelled & m) for m in (spots.patient != who, spots.patient == who))
        guess[test] = _probe(pca(logged, train=train, seed=seed), label, train, test)
    return float(f1_score(label[labelled], guess[labelled], average="macro"))


def same_patient_f1(logged: np.ndarray, spots: Spots, *, seed: int = 0, blocks: int = 3) -> float:
    """What is to be had inside a patient: 3 x 3 blocks of each section held out in turn, PCA and probe on the rest.

    Macro-F1 over the classes of the patient, mean over patients.
    """
    from sklearn.metrics import f1_score

    label, values = np.asarray(spots.label, str), []
    for who in np.unique(spots.patient):
        own = np.flatnonzero((spots.patient == who) & (label != keys.UNDETERMINED))
        block, guess = _blocks(spots.xy_um[own], spots.section[own], blocks), np.empty(len(own), label.dtype)
        for b in np.unique(block):
            train, test = np.flatnonzero(block != b), np.flatnonzero(block == b)
            embedding = pca(logged[own], train=train, seed=seed)
            guess[test] = _probe(embedding, label[own], train, test)
        values.append(f1_score(label[own], guess, average="macro", labels=np.unique(label[own])))
    return float(np.mean(values))


def _blocks(xy_um: np.ndarray, section: np.ndarray, n: int) -> np.ndarray:
    """(N,) number of the block, n x n a section, each row and column of blocks with as many spots."""
    out = np.zeros(len(xy_um), int)
    for name in np.unique(section):
        own = np.flatnonzero(section == name)
        rank = xy_um[own].argsort(0, kind="stable").argsort(0, kind="stable") * n // max(len(own), 1)
        out[own] = rank[:, 0] * n + rank[:, 1]
    return out


def halves(counts: np.ndarray, section: np.ndarray, *, seed: int = 0) -> float:
    """How well one half of the molecules tells the other: the noise ceiling of spot expression.

    Counts of the 250 genes of highest total are thinned to binomial halves; each half becomes log1p counts per
    10,000; Pearson per gene over a section's spots (0 where constant), mean over genes, then sections.
    """
    rng = np.random.default_rng([seed, 401])
    whole = np.asarray(counts)[:, top_genes(counts, PANEL)].astype(np.int64)
    first = rng.binomial(whole, 0.5)
    a, b = log_normalise(first), log_normalise(whole - first)
    values = []
    for name in np.unique(section):
        own = section == name
        x, y = a[own] - a[own].mean(0), b[own] - b[own].mean(0)
        scale = np.sqrt((x**2).sum(0) * (y**2).sum(0))
        values.append(np.where(scale > 0, (x * y).sum(0) / np.maximum(scale, 1e-12), 0).mean())
    return float(np.mean(values))


def variance_shares(logged: np.ndarray, patient: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Share of the variance between patients; share of what is left inside patients that lies between classes."""
    total = ((logged - logged.mean(0)) ** 2).sum()
    inside, classes = 0.0, [0.0, 0.0]
    for who in np.unique(patient):
        own = logged[patient == who]
        inside += ((own - own.mean(0)) ** 2).sum()
        labelled = (patient == who) & (label != keys.UNDETERMINED)
        mean = logged[labelled].mean(0)
        classes[1] += ((logged[labelled] - mean) ** 2).sum()
        for name in np.unique(label[labelled]):
            some = logged[labelled & (label == name)]
            classes[0] += len(some) * ((some.mean(0) - mean) ** 2).sum()
    return float(1 - inside / total), float(classes[0] / max(classes[1], 1e-12))


def overdispersion(counts: np.ndarray, section: np.ndarray, *, above: float = 0.5, below: float = np.inf) -> float:
    """phi of variance = mean + phi mean^2, the mean being a gene's share times the spot's total.

    By moments, sum((x - m)^2 - m) / sum(m^2) over a section's spots; median over genes of a mean between `above` and
    `below`, mean over sections.
    """
    values = []
    for name in np.unique(section):
        own = np.asarray(counts)[section == name].astype(np.float64)
        mean = own.sum(1, keepdims=True) * (own.sum(0) / max(own.sum(), 1))
        chosen = (own.mean(0) > above) & (own.mean(0) <= below)
        own, mean = own[:, chosen], mean[:, chosen]
        extra = ((own - mean) ** 2 - mean).sum(0) / np.maximum((mean**2).sum(0), 1e-12)
        values.append(np.median(extra) if chosen.any() else 0.0)
    return float(np.mean(values))


def mean_variance(counts: np.ndarray, section: np.ndarray) -> list[float]:
    """The mean-variance curve: phi of the genes whose mean lies between one of MEAN_EDGES and the next."""
    return [overdispersion(counts, section, above=low, below=high) for low, high in pairwise(MEAN_EDGES)]


def neighbours_alike(spots: Spots) -> float:
    """Share of adjacent pairs of labelled spots that carry the same label, mean over sections."""
    values = []
    for name in np.unique(spots.section):
        own = (spots.section == name) & (spots.label != keys.UNDETERMINED)
        xy, label = spots.xy_um[own], spots.label[own]
        pitch = np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])
        pairs = cKDTree(xy).query_pairs(1.1 * pitch, output_type="ndarray")
        values.append((label[pairs[:, 0]] == label[pairs[:, 1]]).mean())
    return float(np.mean(values))


def cell_counts(counts: csr_matrix) -> dict[str, float]:
    """Of single cells: counts per cell (median, and SD of the natural log), genes per cell (median), zero share."""
    counts = counts if issparse(counts) else csr_matrix(counts)
    total = np.asarray(counts.sum(1)).ravel()
    return {
        "counts per cell": float(np.median(total)),
        "counts, SD of log": float(np.log(np.maximum(total, 1)).std()),
        "genes per cell": float(np.median(np.diff(counts.tocsr().indptr))),
        "zero share": float(1 - counts.nnz / np.prod(counts.shape)),
    }
