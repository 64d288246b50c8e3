"""Predicted expression against measured: one target, one panel, folds by patient, correlations per gene, intervals.

Target: log1p of counts per 10,000, unsmoothed. Spots: each gene over the spots of a section, then the mean over genes,
sections, patients. Slides: each gene across the held-out slides of a fold, then the mean over genes and folds. A gene
that does not vary is counted and scores 0; a method whose predictions do not vary at all has no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpath_core.correlation import average_ranks, pearson, rounding_removed, spearman, varies
from stpath_core.errors import InputError
from stpath_core.evaluate import Difference, Interval, bootstrap, paired_difference, resample_weights
from stpath_core.leakage import NAMELESS

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

MEASURES = ("pcc", "scc")  # Pearson, and Spearman with average ranks
PANEL = 250  # genes


def target(counts: csr_matrix | np.ndarray, columns: Sequence[int] | None = None) -> np.ndarray:
    """log1p of counts per 10,000: counts (n, G) raw -> (n, G) float32, or the given columns of it.

    The total is taken over all G genes, whatever columns are asked for. A row without counts is all 0.
    """
    from scipy.sparse import issparse

    total = np.asarray(counts.sum(1), np.float64).reshape(-1, 1)
    wanted = counts if columns is None else counts[:, columns]
    return target_of(wanted.toarray() if issparse(wanted) else np.asarray(wanted), total)


def target_of(counts: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The same of some genes (n, g) whose rows have `total` (n,) counts over all genes."""
    return np.log1p(counts * (1e4 / np.maximum(np.reshape(total, (-1, 1)), 1))).astype(np.float32)


def log_normalise(counts: np.ndarray) -> np.ndarray:
    """log1p of counts per 10,000, dense and float32, by the total of the genes given; an empty spot stays 0."""
    counts = np.asarray(counts, np.float32)
    return np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1e-9))


def panel(counts: csr_matrix | np.ndarray, rows: np.ndarray, n: int = PANEL) -> np.ndarray:
    """Columns of the `n` genes of highest total count in `rows` (those of a fold's training patients), highest first.

    Ties are broken by column, so that the panel is the same on every machine.
    """
    total = np.asarray(counts[rows].sum(0)).ravel()
    if n > len(total):
        message = f"the panel wants {n} genes, the table has {len(total)}: pass a smaller n"
        raise InputError(message)
    return np.argsort(-total, kind="stable")[:n]


def patient_folds(patients: Sequence[str], n: int | None = None, *, seed: int = 0) -> list[np.ndarray]:
    """Test rows of each fold, (rows,) bool: every patient is held out once. n : folds; None holds out one at a time.

    Patients are dealt to the folds by `seed`, the largest first, so that the folds are of like size.
    """
    patients = np.asarray(patients).astype(str)
    names, sizes = np.unique(patients, return_counts=True)
    n = len(names) if n is None else n
    if not 2 <= n <= len(names):
        message = f"{n} folds of {len(names)} patients; give 2 to {len(names)}, each patient belongs to one fold"
        raise InputError(message)
    if n == len(names):
        return [patients == name for name in names]
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, load = {}, np.zeros(n)
    for name, size in zip(names[order], sizes[order], strict=True):
        fold_of[name] = int(load.argmin())
        load[fold_of[name]] += size
    fold = np.array([fold_of[p] for p in patients])
    return [fold == k for k in range(n)]


def audit_patients(train: Sequence[str], test: Sequence[str]) -> pd.DataFrame:
    """Refuse a fold in which a patient is on both sides, or has no name; otherwise its size, one row per side."""
    import pandas as pd

    sides = {name: np.char.strip(np.asarray(side).astype(str)) for name, side in (("train", train), ("test", test))}
    for name, side in sides.items():
        nameless = int(np.isin(np.char.lower(side), NAMELESS).sum())
        if nameless or not len(side):
            what = f"{nameless} rows without a patient" if len(side) else "no rows"
            message = f"the {name} side of this fold has {what}: a split cannot be audited without patients"
            raise InputError(message)
    shared = sorted(set(sides["train"]) & set(sides["test"]))
    if shared:
        message = f"{len(shared)} patients are in train and in test ({', '.join(shared[:5])}): split by patient"
        raise InputError(message)
    rows = {name: (len(np.unique(side)), len(side)) for name, side in sides.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["patients", "rows"])


def gene_scores(true: np.ndarray, pred: np.ndarray) -> dict[str, np.ndarray]:
    """pcc and scc (G,) of one section or one fold, scored as the module's first lines say.

    nan only where nothing was to be scored: a gene outside the fold's panel (all of its measured values are nan), or
    every gene where the predictions do not vary at all.
    """
    true, pred = np.asarray(true), np.asarray(pred)
    if true.shape != pred.shape:
        message = f"measured is {true.shape}, predicted {pred.shape}; both must be of the same rows and genes"
        raise InputError(message)
    inside = ~np.isnan(true).all(0)
    bad = int(np.isnan(true[:, inside]).any(0).sum()), int((~np.isfinite(pred[:, inside])).any(0).sum())
    if any(bad):
        message = f"{bad[0]} measured and {bad[1]} predicted genes hold NaN in some rows: leave those rows out of both"
        raise InputError(message)
    out = {m: np.full(true.shape[1], np.nan) for m in MEASURES}
    if len(true) > 1 and varies(pred[:, inside]).any():
        for name, of in (("pcc", pearson), ("scc", spearman)):
            out[name][inside] = np.nan_to_num(of(true[:, inside], pred[:, inside]))
    return out


@dataclass(frozen=True)
class SpotScores:
    """sections : a row per method and section: method, patient, section, n_spots, pcc, scc (means over genes).

    genes : (method, measure) -> (n_sections, G), sections in the order of `names`.
    """

    sections: pd.DataFrame
    genes: dict[tuple[str, str], np.ndarray]
    names: tuple[str, ...]

    def patients(self, method: str, measure: str = "scc") -> pd.Series:
        """Mean over sections of each patient."""
        rows = self.sections[self.sections.method == method]
        return rows.groupby("patient", sort=True)[measure].mean()

    def table(self, *, n: int = 2000, seed: int = 0) -> pd.DataFrame:
        """method, measure, mean over patients with its interval (patients drawn whole), and mean over sections."""
        import pandas as pd

        rows = []
        for method in dict.fromkeys(self.sections.method):
            for measure in MEASURES:
                found = bootstrap(self.patients(method, measure).to_numpy(), n=n, seed=seed)
                flat = self.sections.loc[self.sections.method == method, measure].mean()
                rows.append((method, measure, *found, flat))
        return pd.DataFrame(rows, columns=["method", "measure", "mean", "lo", "hi", "over_sections"])

    def difference(self, a: str, b: str, measure: str = "scc", *, n: int = 2000, seed: int = 0) -> Difference:
        """How much a exceeds b on the same patients."""
        first, second = self.patients(a, measure), self.patients(b, measure)
        return paired_difference(first.to_numpy(), second.reindex(first.index).to_numpy(), n=n, seed=seed)


def score_spots(
    true: np.ndarray, predicted: Mapping[str, np.ndarray], *, patient: Sequence[str], section: Sequence[str]
) -> SpotScores:
    """Score methods spot by spot: true and each prediction (S, G), patient and section (S,) of every spot."""
    import pandas as pd

    patient, section = np.asarray(patient).astype(str), np.asarray(section).astype(str)
    names = tuple(dict.fromkeys(section))
    rows, genes = [], {(m, measure): [] for m in predicted for measure in MEASURES}
    for method, pred in predicted.items():
        for name in names:
            here = section == name
            found = gene_scores(true[here], pred[here])
            for measure in MEASURES:
                genes[method, measure].append(found[measure])
            means = [_mean(found[measure]) for measure in MEASURES]
            rows.append((method, patient[here][0], name, int(here.sum()), *means))
    columns = ["method", "patient", "section", "n_spots", *MEASURES]
    return SpotScores(pd.DataFrame(rows, columns=columns), {k: np.array(v) for k, v in genes.items()}, names)


@dataclass(frozen=True)
class SlideScores:
    """genes : (method, measure) -> (folds, G). draws : (method, measure) -> (n,) means of the bootstrap over slides."""

    genes: dict[tuple[str, str], np.ndarray]
    draws: dict[tuple[str, str], np.ndarray]

    def mean(self, method: str, measure: str = "scc") -> float:
        """Mean over genes, then over folds; nan where a method has no score in any fold."""
        return _mean(np.array([_mean(row) for row in self.genes[method, measure]]))

    def table(self) -> pd.DataFrame:
        """method, measure, mean, lo, hi."""
        import pandas as pd

        rows = [(*key, self.mean(*key), *_interval(self.draws[key])) for key in self.genes]
        return pd.DataFrame(rows, columns=["method", "measure", "mean", "lo", "hi"])

    def difference(self, a: str, b: str, measure: str = "scc") -> Interval:
        """How much a exceeds b, the same slides drawn for both."""
        gap = self.draws[a, measure] - self.draws[b, measure]
        return Interval(self.mean(a, measure) - self.mean(b, measure), *_interval(gap))


def score_slides(
    true: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    *,
    fold: Sequence[int] | None = None,
    patient: Sequence[str] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> SlideScores:
    """Score methods across held-out slides: true and each prediction (S, G).

    fold : (S,) in which fold each slide was held out; correlations never reach across folds, whose models differ.
    patient : (S,) the unit that is drawn; None: every slide is its own. The bootstrap keeps the ranks of all slides.
    """
    fold = np.zeros(len(true), int) if fold is None else np.asarray(fold)
    patient = np.arange(len(true)) if patient is None else np.asarray(patient)
    genes, draws = {}, {}
    for method, pred in predicted.items():
        found, drawn = {m: [] for m in MEASURES}, {m: [] for m in MEASURES}
        for k in np.unique(fold):
            x, y = np.asarray(true)[fold == k], np.asarray(pred)[fold == k]
            scores = gene_scores(x, y)
            weights = resample_weights(patient[fold == k], n=n, seed=seed)
            for measure in MEASURES:
                found[measure].append(scores[measure])
                drawn[measure].append(_drawn(x, y, scores[measure], weights, ranked=measure == "scc"))
        for measure in MEASURES:
            genes[method, measure] = np.array(found[measure])
            draws[method, measure] = np.mean(drawn[measure], axis=0)
    return SlideScores(genes, draws)


def _drawn(x: np.ndarray, y: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, ranked: bool) -> np.ndarray:
    """Mean over genes of the weighted correlation in each draw, (n,); nan where nothing was scored."""
    inside = np.isfinite(scores)
    if not inside.any():
        return np.full(len(weights), np.nan)
    x, y = x[:, inside], rounding_removed(y[:, inside])
    x, y = (average_ranks(v) if ranked else v for v in (x, y))
    x, y = (np.asarray(v - v.mean(0), np.float64) for v in (x, y))
    w = weights / weights.sum(1, keepdims=True)
    mx, my = w @ x, w @ y
    vx, vy = w @ (x * x) - mx**2, w @ (y * y) - my**2
    known = (vx > 1e-9 * (x * x).mean(0)) & (vy > 1e-9 * (y * y).mean(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (w @ (x * y) - mx * my) / np.sqrt(vx * vy)
    return np.where(known, r, 0).mean(1)


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; nan where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _interval(draws: np.ndarray) -> tuple[float, float]:
    draws = draws[~np.isnan(draws)]
    return tuple(float(q) for q in np.quantile(draws, [0.025, 0.975])) if len(draws) else (float("nan"), float("nan"))
