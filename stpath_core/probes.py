"""The fixed probe of Part 3: one patient held out after the other, a simple classifier on an embedding, and its F1.

The probe is linear discriminant analysis with equal priors, because patients differ in how much of each class they
hold; logistic regression and nearest neighbours stand beside it, to see that no conclusion hangs on the choice. On
spots, posteriors may be averaged over the 3 x 3 neighbourhood: tissue is smooth, and no label is needed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.evaluate import Difference, Interval, resample_weights

NOT_A_CLASS = (keys.UNDETERMINED, keys.UNLABELLED)
NEAREST = 15  # neighbours of the kNN probe
Posterior = tuple[np.ndarray, np.ndarray]  # classes (C,), probabilities (n, C)
Probe = Callable[[np.ndarray, np.ndarray, np.ndarray], Posterior]  # x, label, asked -> Posterior
Smooth = Callable[[np.ndarray, np.ndarray], np.ndarray]  # values (m, C), rows (m,) of the spots -> (m, C)


def lda(x: np.ndarray, label: np.ndarray, asked: np.ndarray) -> Posterior:
    """Linear discriminant analysis with equal priors: x (n, D), label (n,), asked (m, D)."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes = np.unique(label)
    model = LinearDiscriminantAnalysis(priors=np.full(len(classes), 1 / len(classes))).fit(x, label)
    return model.classes_, model.predict_proba(asked)


def logistic(x: np.ndarray, label: np.ndarray, asked: np.ndarray) -> Posterior:
    """Multinomial logistic regression on standardised inputs, classes weighed to count alike."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500)).fit(x, label)
    return model.classes_, model.predict_proba(asked)


def nearest(x: np.ndarray, label: np.ndarray, asked: np.ndarray) -> Posterior:
    """Share of each class among the 15 nearest labelled spots, over the class's share of all."""
    from scipy.spatial import cKDTree

    classes, code = np.unique(label, return_inverse=True)
    near = cKDTree(x).query(asked, k=min(NEAREST, len(x)))[1].reshape(len(asked), -1)
    votes = (code[near][..., None] == np.arange(len(classes))).mean(1) / np.bincount(code)
    return classes, votes / votes.sum(1, keepdims=True)


class Scores(NamedTuple):
    """pooled : macro-F1 of all out-of-fold predictions. patient : held-out patient -> macro-F1 over its classes.
    predicted : (n,) words, "unlabelled" where nothing was asked.
    """

    pooled: float
    patient: dict[str, float]
    predicted: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over patients."""
        return float(np.mean(list(self.patient.values())))


def judge(
    embeddings: Mapping[str, np.ndarray],
    label: np.ndarray,
    patient: np.ndarray,
    *,
    probe: Probe = lda,
    smooth: Smooth | None = None,
    told: Sequence[bool] | None = None,
) -> Scores:
    """Judge embeddings, one per held-out patient, by a probe that is told the labels of the others.

    embeddings : held-out patient -> (n, D) of all spots. smooth : applied to the posteriors of all the patient's spots,
    see `neighbourhood`. told : (n,) whose labels the probe may use; None: all. A class that only the held-out patient
    has cannot be named right; it stays in the score. InputError where the others hold fewer than two classes.
    """
    known = classed(label)
    told = known if told is None else known & np.asarray(told)
    predicted, patients = np.full(len(label), keys.UNLABELLED, object), {}
    for name, x in embeddings.items():
        rows, teach = np.flatnonzero(patient == name), told & (patient != name)
        asked = rows[known[rows]]
        if not len(asked):
            continue
        check_taught(label[teach], name)
        with _one_thread():  # small matrices: threads that wait for each other took ten times as long
            classes, posterior = probe(x[teach], label[teach], x[rows])
        posterior = posterior if smooth is None else smooth(posterior, rows)
        predicted[rows] = classes[posterior.argmax(1)]
        patients[name] = macro_f1(label[asked], predicted[asked])
    if not patients:
        message = f"none of the held-out patients {list(embeddings)} has a labelled spot; hold out one that has"
        raise InputError(message)
    asked = known & np.isin(patient, list(patients))
    return Scores(macro_f1(label[asked], predicted[asked]), patients, predicted.astype(str))


def _one_thread() -> AbstractContextManager:
    """A block whose linear algebra keeps to one thread, where threadpoolctl (which scikit-learn brings) is there."""
    if find_spec("threadpoolctl") is None:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")


def classed(label: np.ndarray) -> np.ndarray:
    """(n,) bool: spots with a class, rather than undetermined or unlabelled. InputError for fewer than 2."""
    known = ~np.isin(label, NOT_A_CLASS)
    if len(np.unique(label[known])) < 2:
        message = f"the labels hold {len(np.unique(label[known]))} classes; a probe needs two or more: annotate spots, "
        raise InputError(message + "or judge by mixing (gene_scores.mixing_measures), which needs none")
    return known


def check_taught(label: np.ndarray, held_out: str | Sequence[str]) -> None:
    """Raise InputError unless the labels that training may use, of patients not held out, are of 2 classes or more."""
    n = len(np.unique(label[~np.isin(label, NOT_A_CLASS)]))
    if n < 2:
        who = ", ".join(map(str, np.atleast_1d(held_out)))
        message = f"with {who} held out the others hold {n} class{'' if n == 1 else 'es'}, two or more are needed; "
        raise InputError(message + "a class must be annotated in at least two patients to be learned from the others")


def lonely_classes(label: np.ndarray, patient: np.ndarray) -> list[str]:
    """Classes that one patient alone has: when that patient is held out, nobody can have learned them."""
    known = ~np.isin(label, NOT_A_CLASS)
    return [str(c) for c in np.unique(label[known]) if len(np.unique(patient[known & (label == c)])) == 1]


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that are truly there; 0 for one that is never named right."""
    words, both = np.unique(true), np.union1d(true, predicted)
    counts = confusion(true, predicted, both)
    return float(_f1(counts)[np.isin(both, words)].mean())


def confusion(true: np.ndarray, predicted: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(C, C) spots of each true class (rows) called each class (columns)."""
    at = np.searchsorted(words, true) * len(words) + np.searchsorted(words, predicted)
    return np.bincount(at, minlength=len(words) ** 2).reshape(len(words), len(words))


def _f1(counts: np.ndarray) -> np.ndarray:
    """(..., C, C) -> (..., C) F1 of each class: 2 TP / (true + predicted)."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return 2 * right / np.maximum(counts.sum(-1) + counts.sum(-2), 1e-9)


def _draws(scores: Scores, label: np.ndarray, patient: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """(n,) pooled macro-F1 of bootstrap draws of whole patients, each over the classes that the draw holds."""
    asked, names = classed(label), sorted(scores.patient)
    words = np.union1d(label[asked], scores.predicted[asked & np.isin(patient, names)])
    each = [confusion(label[own], scores.predicted[own], words) for own in (asked & (patient == p) for p in names)]
    counts = np.einsum("np,pij->nij", resample_weights(np.array(names), n=n, seed=seed), np.stack(each))
    present = counts.sum(2) > 0
    return np.where(present, _f1(counts), 0).sum(1) / present.sum(1)


def pooled_interval(
    scores: Scores, label: np.ndarray, patient: np.ndarray, *, n: int = 2000, seed: int = 0
) -> Interval:
    """The pooled macro-F1 with its 95 % interval over patients."""
    low, high = np.quantile(_draws(scores, label, patient, n=n, seed=seed), [0.025, 0.975])
    return Interval(scores.pooled, float(low), float(high))


def pooled_difference(
    a: Scores, b: Scores, label: np.ndarray, patient: np.ndarray, *, n: int = 2000, seed: int = 0
) -> Difference:
    """How much the pooled macro-F1 of a exceeds that of b: the same draws of patients for both.

    The sign test is over patients, by their own macro-F1.
    """
    from scipy.stats import binomtest

    drawn = [_draws(s, label, patient, n=n, seed=seed) for s in (a, b)]
    each = np.array([a.patient[p] - b.patient[p] for p in a.patient])
    wins, losses = int((each > 0).sum()), int((each < 0).sum())
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return Difference(a.pooled - b.pooled, float(low), float(high), float(p))


def neighbourhood(xy_um: np.ndarray, section: np.ndarray) -> Smooth:
    """Averages over the 3 x 3 neighbourhood of each spot in its section, itself included."""
    from stpath_core.spots import neighbourhood_mean

    return lambda values, rows: neighbourhood_mean(values, xy_um[rows], section[rows])
