"""What an image embedding knows of tissue classes in unseen patients: few labels, retrieval, transfer, gain."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from stpath_core import keys
from stpath_core.evaluate import Difference, paired_difference
from stpath_core.probes import Posterior, Scores, check_taught, classed, judge, lda, macro_f1

TOP = 10  # how near a spot's own partner must be to count as found


def shrunk_lda(x: np.ndarray, label: np.ndarray, asked: np.ndarray) -> Posterior:
    """The fixed probe for few labels: its covariance is shrunk (Ledoit and Wolf 2004), or it could not be inverted."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes = np.unique(label)
    priors = np.full(len(classes), 1 / len(classes))
    with warnings.catch_warnings():  # a class of one spot adds nothing to the pooled spread, and may
        warnings.filterwarnings("ignore", message="Only one sample available")
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors).fit(x, label)
    return model.classes_, model.predict_proba(asked)


def judge_few(
    embeddings: Mapping[str, np.ndarray], label: np.ndarray, patient: np.ndarray, told: Mapping[str, np.ndarray]
) -> Scores:
    """`probes.judge` with few labels, told : held-out patient -> (n,) bool of `few_told`; shrunk LDA."""
    known, predicted, by_patient = classed(label), np.full(len(label), keys.UNLABELLED, object), {}
    for who, x in embeddings.items():
        one = judge({who: x}, label, patient, probe=shrunk_lda, told=told[who])
        own = patient == who
        predicted[own], by_patient = one.predicted[own], by_patient | one.patient
    asked = known & np.isin(patient, list(by_patient))
    return Scores(macro_f1(label[asked], predicted[asked].astype(str)), by_patient, predicted.astype(str))


def few_told(label: np.ndarray, patient: np.ndarray, n: int, *, held_out: str, seed: int) -> np.ndarray:
    """(n_spots,) bool: `n` labelled spots of each class, drawn among the patients that are not held out."""
    told, rng = np.zeros(len(label), bool), np.random.default_rng([seed, 702])
    for name in np.unique(label[classed(label)]):
        rows = np.flatnonzero((label == name) & (patient != held_out))
        told[rng.permutation(rows)[:n]] = True
    return told


def transferred(z: np.ndarray, label: np.ndarray, patient: np.ndarray, held_out: str) -> np.ndarray:
    """(n,) labels as expression tells them: known ones stay, unlabelled spots of the patients that are not held out get
    the class that the probe on z (n, k) names; those of the held-out patient stay as they are.

    Raises InputError where the patients that are not held out have fewer than two classes.
    """
    known, out = classed(label), np.array(label, object)
    teach, fill = known & (patient != held_out), (label == keys.UNLABELLED) & (patient != held_out)
    check_taught(label[teach], held_out)
    if fill.any():
        classes, posterior = lda(z[teach], label[teach], z[fill])
        out[fill] = classes[posterior.argmax(1)]
    return out.astype(str)


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
