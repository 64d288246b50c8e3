"""Judge predictions: score images, put an interval over the units that generalise on every mean, compare methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stpath_core import metrics
from stpath_core.leakage import audit_split

if TYPE_CHECKING:
    import pandas as pd

    from stpath_core.data import NucleiSection

__all__ = [
    "MEASURES", "UNSEEN_ORGANS", "Difference", "Interval", "NucleiScores", "audit_split", "baseline_table", "bootstrap",
    "evaluate_nuclei", "organ_table", "paired_difference", "readable", "resample_weights",
    "stratified_weights", "summary", "true_types", "truth", "with_predictions",
]  # fmt: skip

UNSEEN_ORGANS = ("kidney", "prostate")  # of the virtual tissue: no training, no validation, no choice has met them
MEASURES = ("detection_f1", "bpq", "aji", "pq", "dice")


class Interval(NamedTuple):
    """A mean with its 95 % interval; lo and hi are nan where a single unit leaves nothing to resample."""

    mean: float
    lo: float
    hi: float


@dataclass(frozen=True)
class NucleiScores:
    """What was counted on each of n test images, so that any mean can be taken, and resampled, later.

    images : one row per image: name, organ, patient, n_true, n_pred and the five measures.
    detection : (n, 3) TP, FP, FN; tiles : (n, 2) sum of the tiles' PQ and their number.
    types : per arm (a way to type) (n, C, 3) TP, FP, FN of each class.
    """

    images: pd.DataFrame
    detection: np.ndarray
    tiles: np.ndarray
    types: dict[str, np.ndarray]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the five measures, then `type_f1.<arm>` of each arm."""
        return MEASURES + tuple(f"type_f1.{arm}" for arm in self.types)

    def means(self, strata: str | None = "organ", *, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Each measure within each stratum, (B, n_strata), strata sorted.

        strata : a column of `images`, or None for all images together. weights (B, n) : times each image counts; none:
        once. Detection and type F1 from pooled counts, bPQ as the mean over tiles, the others over images.
        """
        weights = np.ones((1, len(self.images))) if weights is None else weights
        each = weights[:, None, :] * _membership(self.images, strata)  # (B, n_strata, n)
        with np.errstate(invalid="ignore"):
            sums = each @ self.tiles
            result = {"detection_f1": metrics.f1(each @ self.detection), "bpq": sums[..., 0] / sums[..., 1]}
            for name in ("aji", "pq", "dice"):
                value = self.images[name].to_numpy(float)
                defined = ~np.isnan(value)
                result[name] = each @ np.where(defined, value, 0) / (each @ defined.astype(float))
        for arm, counts in self.types.items():
            result[f"type_f1.{arm}"] = _mean_defined(metrics.f1(np.einsum("bsn,nck->bsck", each, counts)))
        return result


def _membership(images: pd.DataFrame, strata: str | None) -> np.ndarray:
    """Which image belongs to which stratum, (n_strata, n) of 0 and 1."""
    values = np.zeros(len(images)) if strata is None else images[strata].astype(str).to_numpy()
    return (values == np.unique(values)[:, None]).astype(float)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without nan; nan where nothing is defined."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(-1) / defined.sum(-1)


def truth(section: NucleiSection) -> tuple[np.ndarray, np.ndarray | None]:
    """The planted or annotated instances of a section and their labels (n + 1,), where there are types."""
    if section.truth_instances is not None:
        return section.truth_instances, section.truth_labels
    return section.instances, section.labels


def with_predictions(
    section: NucleiSection,
    instances: np.ndarray,
    *,
    types: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> NucleiSection:
    """The section with predicted nuclei as its instances, what was known of it as its truth: ready to be stored.

    instances : (H, W) ids 1..n; types, confidence : (n,) class index and how sure, or None.
    """
    true, labels = truth(section)
    typed = {} if types is None else {
        "labels": np.r_[-1, types].astype(np.int8), "confidence": np.r_[0, confidence].astype(np.float32)
    }  # fmt: skip
    bare = replace(section, labels=None, confidence=None)
    return replace(bare, instances=instances, truth_instances=true, truth_labels=labels, **typed)


def evaluate_nuclei(
    sections: Sequence[NucleiSection],
    predicted: Sequence[np.ndarray],
    *,
    types: Mapping[str, Sequence[np.ndarray]] | None = None,
    n_classes: int = 4,
    radius_um: float = 6.0,
) -> NucleiScores:
    """Score predicted nuclei against the truth of each section.

    predicted : an instance map (H, W) per section, ids 1..n. types : per arm, for each section the class index of its
    predicted nuclei, (n,), -1 unknown; all arms share the instances, so they differ in typing alone. A control that
    was drawn several times gives (draws, n): its counts are added up.
    """
    import pandas as pd

    types = types or {}
    rows, detection, tiles, counts = [], [], [], {arm: [] for arm in types}
    for i, (section, pred) in enumerate(zip(sections, predicted, strict=True)):
        true, labels = truth(section)
        table = metrics.overlap_table(true, pred)
        true_xy, pred_xy = (metrics.centroids_um(ids, mpp=section.mpp) for ids in (true, pred))
        present = np.isfinite(true_xy[:, 0])  # an id of the truth may have lost all its pixels to others
        pairs = metrics.match_centroids(true_xy[present], pred_xy, radius_um=radius_um)
        per_tile = metrics.bpq_tiles(true, pred, mpp=section.mpp)
        detection.append([len(pairs), len(pred_xy) - len(pairs), int(present.sum()) - len(pairs)])
        tiles.append([per_tile.sum(), len(per_tile)])
        for arm in types:
            known = labels[1:][present]
            draws = np.atleast_2d(types[arm][i])
            counts[arm].append(sum(metrics.type_counts(known, t, pairs, n_classes=n_classes) for t in draws))
        rows.append({
            "name": section.name, "organ": section.organ, "patient": section.patient,
            "n_true": int(present.sum()), "n_pred": len(pred_xy),
            "detection_f1": float(metrics.f1(detection[-1])),
            "bpq": float(per_tile.mean()) if len(per_tile) else np.nan,
            "aji": metrics.aji(table=table), "pq": metrics.pq(table=table), "dice": metrics.dice(table=table),
        } | {f"type_f1.{arm}": metrics.type_f1(counts[arm][-1]) for arm in types})  # fmt: skip
    return NucleiScores(
        pd.DataFrame(rows), np.array(detection), np.array(tiles), {arm: np.array(c) for arm, c in counts.items()}
    )


def true_types(section: NucleiSection, predicted: np.ndarray, *, radius_um: float = 6.0) -> np.ndarray:
    """Class of the true nucleus that each predicted one (ids 1..n) was matched with, (n,); -1 where there is none.

    As an arm of `evaluate_nuclei` it is the oracle: what perfect typing would score on these detections.
    """
    true, labels = truth(section)
    true_xy, pred_xy = (metrics.centroids_um(ids, mpp=section.mpp) for ids in (true, predicted))
    present = np.isfinite(true_xy[:, 0])
    pairs = metrics.match_centroids(true_xy[present], pred_xy, radius_um=radius_um)
    types = np.full(len(pred_xy), -1)
    types[pairs[:, 1]] = labels[1:][present][pairs[:, 0]]
    return types


def organ_table(scores: NucleiScores) -> pd.DataFrame:
    """Measures by organ, one row each, and their mean over organs in the last row."""
    import pandas as pd

    table = pd.DataFrame({k: v[0] for k, v in scores.means().items()}, index=np.unique(scores.images.organ))
    table.loc["mean over organs"] = table.mean()
    return table


def summary(
    scores: NucleiScores, *, strata: str | None = "organ", unit: str = "name", n: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Mean over strata of each measure with its 95 % interval: rows are measures, columns mean, lo, hi.

    The bootstrap draws `unit` ("name" for images, "patient") with replacement within each stratum, so with
    strata="organ" an interval says how much the mean depends on which images were seen of these organs, not on which
    organs. strata=None: all images together, as is usual for MoNuSeg.
    """
    import pandas as pd

    member = _membership(scores.images, strata).astype(bool)
    groups = scores.images[unit].astype(str).to_numpy()
    weights = stratified_weights(scores.images, strata=strata, unit=unit, n=n, seed=seed)
    means, draws = scores.means(strata), scores.means(strata, weights=weights)
    fixed = all(len(np.unique(groups[inside])) == 1 for inside in member)  # nothing to resample, no interval
    rows = {
        k: Interval(float(means[k].mean()), *((np.nan, np.nan) if fixed else _quantiles(_mean_defined(draws[k]))))
        for k in scores.measures
    }
    return pd.DataFrame(rows, index=Interval._fields).T


def stratified_weights(
    images: pd.DataFrame, *, strata: str | None = "organ", unit: str = "name", n: int = 2000, seed: int = 0
) -> np.ndarray:
    """`resample_weights` of `unit` within each stratum: (n, n_images). The same seed draws the same images."""
    groups = images[unit].astype(str).to_numpy()
    weights = np.zeros((n, len(groups)))
    for i, inside in enumerate(_membership(images, strata).astype(bool)):
        weights[:, inside] = resample_weights(groups[inside], n=n, seed=seed + i)
    return weights


def resample_weights(groups: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """How often each row counts in each of n bootstrap draws of whole groups: (n, n_rows)."""
    names, member = np.unique(groups, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return draws[:, member].astype(float)


def _quantiles(draws: np.ndarray) -> tuple[float, float]:
    draws = draws[~np.isnan(draws)]
    return tuple(float(q) for q in np.quantile(draws, [0.025, 0.975])) if len(draws) else (np.nan, np.nan)


def bootstrap(values: np.ndarray, groups: np.ndarray | None = None, *, n: int = 2000, seed: int = 0) -> Interval:
    """Mean of values (n,) with the interval of a percentile bootstrap over groups (patients, images), each drawn
    whole.

    nan values are left out. Without groups each value is its own unit. One unit: no interval.
    """
    values = np.asarray(values, float)
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    defined = ~np.isnan(values)
    values, groups = values[defined], groups[defined]
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    if len(np.unique(groups)) == 1:
        return Interval(float(values.mean()), np.nan, np.nan)
    weights = resample_weights(groups, n=n, seed=seed)
    return Interval(float(values.mean()), *_quantiles(weights @ values / weights.sum(1)))


class Difference(NamedTuple):
    """Mean paired difference, its 95 % interval, and the two-sided exact sign test over units (ties left out)."""

    mean: float
    lo: float
    hi: float
    sign_p: float


def paired_difference(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray | None = None, *, n: int = 2000, seed: int = 0
) -> Difference:
    """How much a exceeds b on the same images, units being `groups` (their mean difference counts once each)."""
    from scipy.stats import binomtest

    difference = np.asarray(a, float) - np.asarray(b, float)
    groups = np.arange(len(difference)) if groups is None else np.asarray(groups)
    defined = ~np.isnan(difference)
    _, member = np.unique(groups[defined], return_inverse=True)
    per_unit = np.bincount(member, weights=difference[defined]) / np.maximum(np.bincount(member), 1)
    wins, losses = int((per_unit > 0).sum()), int((per_unit < 0).sum())
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return Difference(*bootstrap(per_unit, n=n, seed=seed), float(p))


def baseline_table(methods: Mapping[str, NucleiScores], **options: int | str | None) -> pd.DataFrame:
    """Every method with every measure it has, in long form: method, measure, mean, lo, hi. Options go to
    `summary`."""
    import pandas as pd

    tables = {name: summary(scores, **options) for name, scores in methods.items()}
    return pd.concat(tables, names=["method", "measure"]).reset_index()


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A `baseline_table` as one shows it: measures in rows, methods in columns, "mean [lo, hi]" in the cells."""
    text = [f"{r.mean:.3f} [{r.lo:.2f}, {r.hi:.2f}]" for r in table.itertuples()]
    wide = table.assign(text=text).pivot(index="measure", columns="method", values="text")
    return wide.loc[table["measure"].unique(), table["method"].unique()].fillna("")
