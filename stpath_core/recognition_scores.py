"""What an image embedding knows of tissue classes in unseen patients: fixed probe, retrieval, few labels, gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.evaluate import Difference, paired_difference
from stpath_core.recognition import NOT_A_CLASS

TOP = 10  # how near a spot's own partner must be to count as found


class Scores(NamedTuple):
    """pooled : macro-F1 of all out-of-fold predictions; patient : held-out patient -> macro-F1 over its classes.
    predicted : (n,) words, "unlabelled" where nothing was asked.
    """

    pooled: float
    patient: dict[str, float]
    predicted: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over patients."""
        return float(np.mean(list(self.patient.values())))


def classed(label: np.ndarray) -> np.ndarray:
    """(n,) bool: spots with a class, rather than undetermined or unlabelled. InputError where there are none."""
    known = ~np.isin(label, NOT_A_CLASS)
    if len(np.unique(label[known])) < 2:
        message = f"the labels hold {len(np.unique(label[known]))} classes; a probe needs two or more: without labels "
        raise InputError(message + "use `retrieval`, which needs none")
    return known


def lonely_classes(label: np.ndarray, patient: np.ndarray) -> list[str]:
    """Classes that one patient alone has: when that patient is held out, nobody can have learned them."""
    known = ~np.isin(label, NOT_A_CLASS)
    return [str(c) for c in np.unique(label[known]) if len(np.unique(patient[known & (label == c)])) == 1]


def probe(
    embeddings: Mapping[str, np.ndarray],
    label: np.ndarray,
    patient: np.ndarray,
    *,
    told: Mapping[str, np.ndarray] | None = None,
) -> Scores:
    """Judge embeddings, one per held-out patient, by the fixed probe: LDA with equal priors on the others' labels.

    embeddings : held-out patient -> (n, D) of all spots. told : held-out patient -> (n,) bool, whose labels the probe
    may use (`few_told`); None: all. A class that only the held-out patient has cannot be named right; it stays in the
    score.
    """
    known = classed(label)
    predicted, patients = np.full(len(label), keys.UNLABELLED, object), {}
    for name, x in embeddings.items():
        asked, teach = known & (patient == name), known & (patient != name)
        teach &= True if told is None else told[name]
        if asked.any():
            predicted[asked] = lda(x[teach], label[teach], x[asked])
            patients[name] = macro_f1(label[asked], predicted[asked])
    asked = known & np.isin(patient, list(patients))
    return Scores(macro_f1(label[asked], predicted[asked]), patients, predicted.astype(str))


def lda(x: np.ndarray, label: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Labels of `asked` (m, D) by linear discriminant analysis with equal priors on x (n, D).

    Below ten spots per dimension the covariance is shrunk (Ledoit and Wolf 2004), or it could not be inverted.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes = np.unique(label)
    if len(classes) < 2:
        return np.full(len(asked), classes[0])
    how = {"solver": "lsqr", "shrinkage": "auto"} if len(x) < 10 * x.shape[1] else {"solver": "svd"}
    model = LinearDiscriminantAnalysis(priors=np.full(len(classes), 1 / len(classes)), **how)
    return model.fit(x, label).predict(asked)


def transferred(z: np.ndarray, label: np.ndarray, patient: np.ndarray, held_out: str) -> np.ndarray:
    """(n,) labels as expression tells them: known ones stay, unlabelled spots of the patients that are not held out get
    the class that the probe on z (n, k) names; those of the held-out patient stay as they are."""
    known, out = classed(label), np.array(label, object)
    teach, fill = known & (patient != held_out), (label == keys.UNLABELLED) & (patient != held_out)
    out[fill] = lda(z[teach], label[teach], z[fill])
    return out.astype(str)


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that are truly there (a class that is only predicted costs precision elsewhere)."""
    from sklearn.metrics import f1_score

    true = np.asarray(true, str)
    return float(f1_score(true, np.asarray(predicted, str), average="macro", labels=np.unique(true), zero_division=0))


def few_told(label: np.ndarray, patient: np.ndarray, n: int, *, held_out: str, seed: int) -> np.ndarray:
    """(n_spots,) bool: `n` labelled spots of each class, drawn among the patients that are not held out."""
    told, rng = np.zeros(len(label), bool), np.random.default_rng([seed, 702])
    for name in np.unique(label[classed(label)]):
        rows = np.flatnonzero((label == name) & (patient != held_out))
        told[rng.permutation(rows)[:n]] = True
    return told


def retrieval(u: np.ndarray, v: np.ndarray, section: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Find the partner among the spots of the same section, both ways. u (n, D) image, v (n, D) gene side, unit length.

    rows : numbers of the spots to ask. "found" : share whose own partner is among the 10 nearest; "rank" : mean rank of
    the partner as a share of the section, 0 first, 0.5 by chance; each with "image_to_gene" and "gene_to_image".
    "chance" : what `found` would be for a blind guess.
    """
    out = {"image_to_gene": [], "gene_to_image": []}
    chance = []
    for name in np.unique(section[rows]):
        own = rows[section[rows] == name]
        s = u[own] @ v[own].T  # (m, m), rows are images
        for way, scores in (("image_to_gene", s), ("gene_to_image", s.T)):
            above = (scores > np.diag(scores)[:, None]).sum(1)
            ties = (scores == np.diag(scores)[:, None]).sum(1) - 1
            out[way].append(above + ties / 2)
        chance.append((len(own), min(TOP / len(own), 1)))
    size = np.concatenate([np.full(n, n) for n, _ in chance])
    answer = {f"found.{way}": float((np.concatenate(ranks) < TOP).mean()) for way, ranks in out.items()}
    answer |= {f"rank.{way}": float((np.concatenate(r) / np.maximum(size - 1, 1)).mean()) for way, r in out.items()}
    return answer | {"chance": float(np.average([c for _, c in chance], weights=[n for n, _ in chance]))}


def gain(ours: Scores, rivals: Sequence[Scores], *, draws: int = 2000) -> Difference:
    """How much `ours` exceeds the better of the rivals, patient by patient (macro-F1 over the patient's classes)."""
    best = max(rivals, key=lambda s: s.mean)
    names = sorted(ours.patient)
    return paired_difference([ours.patient[p] for p in names], [best.patient[p] for p in names], names, n=draws)
