"""From stage files of predictions to tables: scores of every method, compositions against truth, share of depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import expression as ex
from stpath_core import keys
from stpath_core.spots import centred, smoothed

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

TARGET, DRAW = "target", "shuffled_"  # layers: what was measured; draws of the control


def methods_of(adata: AnnData) -> dict[str, np.ndarray]:
    """Predictions by method, (n, g), in the order of the layers."""
    return {name: adata.layers[name] for name in adata.layers if name not in (TARGET, keys.COUNTS)}


def spot_scores(adata: AnnData, extra: Mapping[str, np.ndarray] | None = None) -> ex.SpotScores:
    """Scores of all layers of a `spots.h5ad`, the draws of the shuffled control averaged into one row "shuffled".

    extra : further predictions (n, g) of the same genes, nan where the target is.
    """
    patient, section = (adata.obs[c].astype(str).to_numpy() for c in (keys.PATIENT, keys.SECTION))
    found = ex.score_spots(
        adata.layers[TARGET], {**methods_of(adata), **(extra or {})}, patient=patient, section=section
    )
    table = found.sections.copy()
    table["method"] = [DRAW.rstrip("_") if m.startswith(DRAW) else m for m in table.method]
    names = list(dict.fromkeys(table.method))
    table = (
        table.groupby(["method", "patient", "section", "n_spots"], sort=False)[list(ex.MEASURES)].mean().reset_index()
    )
    table["method"] = table["method"].astype("category").cat.set_categories(names)
    return replace(found, sections=table.sort_values("method", kind="stable").astype({"method": str}))


def slide_scores(adata: AnnData, *, n: int = 1000, seed: int = 0) -> ex.SlideScores:
    """Scores of all layers of a `slides.h5ad` within folds, the draws of the shuffled control averaged."""
    methods = {m: v for m, v in methods_of(adata).items() if not m.startswith("nb_")}
    found = ex.score_slides(adata.layers[TARGET], methods, fold=adata.obs["fold"].to_numpy(), n=n, seed=seed,
                            patient=adata.obs[keys.PATIENT].astype(str).to_numpy())  # fmt: skip
    merged = []
    for tables in (found.genes, found.draws):
        out: dict[tuple[str, str], list[np.ndarray]] = {}
        for (method, measure), values in tables.items():
            name = DRAW.rstrip("_") if method.startswith(DRAW) else method
            out.setdefault((name, measure), []).append(values)
        merged.append({key: np.mean(values, axis=0) for key, values in out.items()})
    return ex.SlideScores(*merged)


def compositions(adata: AnnData, *, weights: str = "cell_type_weights", group: str = keys.SECTION) -> pd.DataFrame:
    """CPNN's weights against the truth, a row per type: over all held-out rows, within groups, and mean shares.

    Truth is obsm["composition"]: shares of the mRNA by the prototypes' types, of which the truth may hold more.
    """
    import pandas as pd

    said, truth = adata.obsm[weights], adata.obsm["composition"]
    types = [t for t in said if t in truth]
    w, t = said[types].to_numpy(float), truth[types].to_numpy(float)
    names = adata.obs[group].astype(str).to_numpy()
    within = [np.nan_to_num(ex.pearson(t[names == name], w[names == name])) for name in np.unique(names)]
    rows = {"pearson": np.nan_to_num(ex.pearson(t, w)), "within": np.mean(within, axis=0),
            "mean_true": t.mean(0), "mean_predicted": w.mean(0)}  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(types, name="type"))


def composition_interval(
    adata: AnnData, *, weights: str = "cell_type_weights", n: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """Median over types of the Pearson over all held-out rows, and its interval when patients are drawn whole."""
    from stpath_core.evaluate import resample_weights

    said, truth = adata.obsm[weights], adata.obsm["composition"]
    types = [t for t in said if t in truth]
    w, t = (f[types].to_numpy(float) for f in (said, truth))
    w, t = w - w.mean(0), t - t.mean(0)
    drawn = resample_weights(adata.obs[keys.PATIENT].astype(str).to_numpy(), n=n, seed=seed)
    medians = np.median(_weighted_pearson(t, w, drawn / drawn.sum(1, keepdims=True)), axis=1)
    point = float(np.median(np.nan_to_num(ex.pearson(t, w))))
    return point, *(float(q) for q in np.quantile(medians, [0.025, 0.975]))


def _weighted_pearson(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(draws, C) correlations under row weights (draws, n) that sum to 1; 0 where nothing varies."""
    mx, my = w @ x, w @ y
    vx, vy = w @ x**2 - mx**2, w @ y**2 - my**2
    return (w @ (x * y) - mx * my) / np.sqrt(np.maximum(vx * vy, 1e-18))


def depth_predictor(adata: AnnData) -> np.ndarray:
    """(n, g) the measured log total count of each spot, with the sign that it has for the gene in the other folds.

    No method can know it; it shows how much of the measure is depth. nan outside each fold's panel.
    """
    section = adata.obs[keys.SECTION].astype(str).to_numpy()
    fold = adata.obs["fold"].to_numpy()
    total = centred(np.log1p(adata.obs[keys.TOTAL_COUNTS].to_numpy(float))[:, None], section)  # (n, 1)
    target = adata.layers[TARGET]
    out = np.full(target.shape, np.nan, np.float32)
    for k in np.unique(fold):
        inside = np.flatnonzero(~np.isnan(target[fold == k]).all(0))
        y = np.nan_to_num(target[np.ix_(fold != k, inside)])
        sign = np.sign((total[fold != k] * centred(y, section[fold != k])).sum(0))
        out[np.ix_(fold == k, inside)] = total[fold == k] * np.where(sign == 0, 1, sign)
    return out


def without_depth(adata: AnnData, methods: Sequence[str]) -> pd.DataFrame:
    """Partial correlations, mean over genes and sections: what is left when log total count is taken out of both sides.

    Columns: pcc as scored, partial, and with_depth, the correlation of the mean absolute prediction axis with depth.
    """
    import pandas as pd

    section = adata.obs[keys.SECTION].astype(str).to_numpy()
    total = np.log1p(adata.obs[keys.TOTAL_COUNTS].to_numpy(float))
    rows = []
    for method in methods:
        found = []
        for name in np.unique(section):
            here = section == name
            true, pred = adata.layers[TARGET][here], adata.layers[method][here]
            inside = ~np.isnan(true).all(0)
            true, pred = true[:, inside], pred[:, inside]
            depth = (total[here] - total[here].mean())[:, None]
            left = [_residual(v, depth) for v in (true, pred)]
            axis = np.linalg.svd(pred - pred.mean(0), full_matrices=False)[0][:, :1]
            with_depth = abs(float(np.corrcoef(axis[:, 0], depth[:, 0])[0, 1])) if ex.varies(pred).any() else np.nan
            found.append([np.nan_to_num(ex.pearson(*v)).mean() for v in ((true, pred), left)] + [with_depth])
        rows.append([method, *np.nanmean(found, axis=0)])
    return pd.DataFrame(rows, columns=["method", "pcc", "partial", "with_depth"]).set_index("method")


def _residual(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    values = values - values.mean(0)
    return values - depth * ((depth * values).sum(0) / max(float((depth**2).sum()), 1e-12))


def smoothed_target(adata: AnnData, *, pitches: float = 1.0) -> AnnData:
    """The same predictions beside a *smoothed* target: a warning, never a result."""
    out = adata.copy()
    section = adata.obs[keys.SECTION].astype(str).to_numpy()
    for k in np.unique(adata.obs["fold"]):
        rows = (adata.obs["fold"] == k).to_numpy()
        target = adata.layers[TARGET][rows]
        out.layers[TARGET][rows] = smoothed(target, adata.obsm[keys.SPATIAL][rows], section[rows], pitches=pitches)
    return out
