"""One table for embeddings of expression: how patients mix in them, and what a probe reads of classes, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import mixing, probes
from stpath_core.gene_embeddings import GeneSpots

if TYPE_CHECKING:
    import pandas as pd

Embeddings = Mapping[str, np.ndarray]  # held-out patient -> (n, k)


def mixing_measures(embeddings: Embeddings, spots: GeneSpots) -> dict[str, float]:
    """Mixing (also within class), iLISI, cLISI and graph connectivity of labelled spots, mean over folds.

    Where the labels are of fewer than two classes, mixing and iLISI are those of all spots, and what asks for classes
    is nan.
    """
    known = ~np.isin(spots.label, probes.NOT_A_CLASS)
    classes = len(np.unique(spots.label[known])) > 1
    if not classes:
        known[:] = True
    patient, label = spots.patient[known], spots.label[known]
    each = [
        {
            "mixing": mixing.mixing(z, patient),
            "within_class": mixing.mixing_within(z, patient, label) if classes else np.nan,
            "ilisi": mixing.ilisi(z, patient),
            "clisi": mixing.clisi(z, label) if classes else np.nan,
            "connectivity": mixing.graph_connectivity(z, label) if classes else np.nan,
        }
        for z in (z[known] for z in embeddings.values())
    ]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def probe_scores(embeddings: Embeddings, spots: GeneSpots) -> dict[str, probes.Scores]:
    """The fixed probe with smoothed posteriors ("smoothed") and without ("f1"), logistic regression and kNN."""
    smooth = probes.neighbourhood(spots.xy_um, spots.section)
    ways = {"f1": {}, "smoothed": {"smooth": smooth}, "logistic": {"probe": probes.logistic},
            "nearest": {"probe": probes.nearest}}  # fmt: skip
    return {way: probes.judge(embeddings, spots.label, spots.patient, **given) for way, given in ways.items()}


def score_table(
    embeddings: Mapping[str, Embeddings], scores: Mapping[str, Mapping[str, probes.Scores]], spots: GeneSpots
) -> pd.DataFrame:
    """A row per method: pooled macro-F1 of each way to probe with the interval of the fixed one, mean over patients,
    and the five measures of mixing."""
    import pandas as pd

    rows = {}
    for name, each in embeddings.items():
        inside = probes.pooled_interval(scores[name]["f1"], spots.label, spots.patient)
        pooled = {way: s.pooled for way, s in scores[name].items()}
        rows[name] = pooled | {"lo": inside.lo, "hi": inside.hi, "by_patient": scores[name]["f1"].mean}
        rows[name] |= mixing_measures(each, spots)
    return pd.DataFrame(rows).T


def noise(spots: GeneSpots, *, k: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    """The control that mixes perfectly and knows nothing."""
    drawn = np.random.default_rng([seed, 703]).normal(size=(len(spots.patient), k))
    return dict.fromkeys(spots.patients, drawn)


def shuffled_labels(spots: GeneSpots, *, seed: int = 0) -> GeneSpots:
    """The control that has the right embedding and the wrong words: labels permuted within each patient."""
    from dataclasses import replace

    label, rng = spots.label.copy(), np.random.default_rng([seed, 704])
    for who in spots.patients:
        own = np.flatnonzero((spots.patient == who) & ~np.isin(label, probes.NOT_A_CLASS))
        label[own] = label[rng.permutation(own)]
    return replace(spots, label=label)
